"""Train linear classifiers on cached features, with several learning rates in parallel. It takes minutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bt_plugin.config.evaluation_recipe import Linear
from bt_plugin.errors import RecipeError
from bt_plugin.evaluation.accuracy import Accuracy
from bt_plugin.evaluation.features import Features
from bt_plugin.evaluation.finite import check_outputs, nonfinite_rows

# Fraction of the training images that chooses the learning rate.
_HELD_OUT = 0.1


class LinearResult(NamedTuple):
    """The result of a linear evaluation on cached features.

    Args:
        accuracy: Accuracy on the validation images, with the chosen learning rate.
        lr: Chosen learning rate.
        chosen_by: Top-1 accuracy on held-out training images by learning rate, fractions of 1.
    """

    accuracy: Accuracy
    lr: float
    chosen_by: dict[float, float]


def linear_on_features(train: Features, val: Features, *, options: Linear, seed: int) -> LinearResult:
    """Train a classifier for each of options.cached_lrs, and evaluate the one that is best on held-out images.

    The held-out images are a tenth of the training images. The chosen classifier is trained again on all training
    images. The validation images have no influence on the choice.

    Features are standardized with the mean and deviation of the training images, so that the same learning rates suit
    every backbone. Every rank computes the same.

    Args:
        train: Features and labels of all training images.
        val: Features and labels of all validation images.
        options: Section ``linear`` of the recipe.
        seed: Seed of the split and of the order.

    Raises:
        RecipeError: If there are fewer than two training images.
        DivergenceError: If the chosen classifier's outputs are not finite.
    """
    if len(train.targets) < 2:
        raise RecipeError(
            f"data.train: {len(train.targets)} image(s) are not enough for a linear classifier on cached features; use"
            " two or more"
        )
    mean, std = train.values.mean(dim=0), train.values.std(dim=0).clamp(min=1e-6)
    known, queries = ((features.values - mean) / std for features in (train, val))
    classes = int(max(train.targets.max(), val.targets.max())) + 1
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(known), generator=generator)
    n_held_out = max(1, round(_HELD_OUT * len(order)))
    held_out, kept = order[:n_held_out], order[n_held_out:]
    heads = _trained(known[kept], train.targets[kept], classes, options, options.cached_lrs, generator)
    shares = [_share(head, known[held_out], train.targets[held_out]) for head in heads]
    chosen_by = dict(zip(options.cached_lrs, shares))
    lr = max(options.cached_lrs, key=lambda rate: chosen_by[rate])
    # Train again, now with the held-out images too.
    (head,) = _trained(known, train.targets, classes, options, [lr], generator)
    with torch.no_grad():
        logits = head(queries)
    check_outputs(nonfinite_rows(logits), len(logits), key="linear.cached_lrs")
    return LinearResult(_accuracy(logits, val.targets), lr, chosen_by)


def _trained(
    values: Tensor, targets: Tensor, classes: int, options: Linear, lrs: Sequence[float], generator: torch.Generator
) -> list[nn.Linear]:
    heads = [nn.Linear(values.shape[1], classes, device=values.device) for _ in lrs]
    for head in heads:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    groups = [{"params": head.parameters(), "lr": lr} for head, lr in zip(heads, lrs)]
    optimizer = torch.optim.SGD(groups, momentum=options.momentum, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    with torch.enable_grad():
        for _ in range(options.epochs):
            order = torch.randperm(len(values), generator=generator)
            for rows in order.split(options.global_batch_size):
                # The heads share no parameters, so the gradient of the sum is the gradient of each head's own loss.
                losses = [functional.cross_entropy(head(values[rows]), targets[rows]) for head in heads]
                optimizer.zero_grad()
                torch.stack(losses).sum().backward()
                optimizer.step()
            schedule.step()
    return heads


@torch.no_grad()
def _share(head: nn.Linear, values: Tensor, targets: Tensor) -> float:
    """Return the top-1 accuracy, or 0 if the classifier diverged."""
    logits = head(values)
    accuracy = _accuracy(logits, targets)
    return 0.0 if nonfinite_rows(logits) else accuracy.top1 / accuracy.n


def _accuracy(logits: Tensor, targets: Tensor) -> Accuracy:
    return Accuracy.of(logits.argsort(dim=1, descending=True), targets)
