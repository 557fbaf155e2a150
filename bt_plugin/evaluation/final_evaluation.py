"""Evaluate a run at its end: its network, and the baselines to compare it with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bt_plugin.config.evaluation_recipe import Linear
from bt_plugin.config.recipe import Recipe
from bt_plugin.data.from_recipe import build_eval_loader
from bt_plugin.evaluation.features import Features, RawPixels, extract_features
from bt_plugin.evaluation.knn import knn_accuracy
from bt_plugin.evaluation.linear import linear_on_features
from bt_plugin.evaluation.online import OnlineEvaluation
from bt_plugin.evaluation.subsets import at_most
from bt_plugin.models.barlow_twins import BarlowTwins
from dali_pipelines.eval_loader import EvalLoader
from dali_pipelines.sources import ImageSource

# Enough for the statistics of a few hundred channels, and fast compared with a run.
_CALIBRATION_IMAGES = 1024
# Fewer epochs and learning rates than `bt-plugin linear` uses: a baseline for the curve of the online probe.
_LINEAR = Linear(epochs=20, cached_lrs=(0.01, 0.1, 1.0))

# Metrics of the final evaluation, each with a value per network.
FINAL_METRICS = ("knn_top1", "linear_top1", "view_retrieval_top1", "rankme", "effective_rank", "lidar")


def evaluate_finally(
    recipe: Recipe,
    model: BarlowTwins,
    *,
    untrained: BarlowTwins,
    initialized: nn.Module | None = None,
    train: ImageSource,
    val: ImageSource | None,
    online: OnlineEvaluation | None,
    device: torch.device,
) -> dict[str, dict[str, float] | None]:
    """Return each metric of the pretrained model and of the baselines. Call it on every rank.

    Args:
        recipe: Recipe of the run.
        model: Pretrained model, on the device.
        untrained: Untrained model. Its BatchNorm statistics are changed.
        initialized: Backbone before the first step, if the run started from existing weights.
        train: Training images.
        val: Validation images, or None.
        online: Evaluation during the run. Its metrics are computed for the baselines too. None if there was none.
        device: Device to compute on.

    Returns:
        For each of FINAL_METRICS a dictionary by network, or None:

        - knn_top1: fractions of 1. None if eval.knn is false or labels are missing.
        - linear_top1: fractions of 1. None without ``online`` or labels.
        - view_retrieval_top1 (fractions of 1), rankme, effective_rank and lidar, as in the evaluations during the run.
          None without ``online``.

        The networks are raw (pixels), untrained, calibrated, initialized (if given) and pretrained. Raw and initialized
        have no rankme, effective_rank and lidar, because they have no projector. "calibrated" is the untrained network
        with BatchNorm statistics re-estimated on training images. It is the baseline to beat: much of the apparent gain
        of the first training steps comes from these statistics only.
    """
    labelled = val is not None and train.has_labels and val.has_labels
    wants_knn, wants_linear = labelled and recipe.eval.knn, labelled and online is not None
    bank = at_most(train, recipe.eval.knn_bank_images, recipe.run.seed)
    found: dict[str, dict[str, float] | None] = dict.fromkeys(FINAL_METRICS)
    if not wants_knn and online is None:
        return found

    def note(network: str, values: dict[str, float]) -> None:
        for metric, value in values.items():
            found[metric] = {**(found[metric] or {}), network: value}

    def accuracies(embed: nn.Module) -> dict[str, float]:
        if val is None or not (wants_knn or wants_linear):
            return {}
        known, queries = (
            extract_features(embed, build_eval_loader(recipe, source, device), device).to(device)
            for source in (bank, val)
        )
        values = {"knn_top1": _knn_top1(recipe, known, queries)} if wants_knn else {}
        if wants_linear:
            linear = linear_on_features(known, queries, options=_LINEAR, seed=recipe.run.seed).accuracy
            values["linear_top1"] = linear.top1 / linear.n
        return values

    def without_projector(network: nn.Module) -> dict[str, float]:
        return accuracies(network) | (online.retrieval(network) if online is not None else {})

    note("raw", without_projector(RawPixels()))
    if initialized is not None:
        note("initialized", without_projector(initialized.to(device).eval()))
    for network, each in _networks(recipe, model, untrained.to(device), train, device):
        note(network, accuracies(each.backbone) | (online.signs(each) if online is not None else {}))
    return found


@torch.no_grad()
def calibrate_batch_norm(network: nn.Module, loader: EvalLoader, device: torch.device) -> None:
    """Set the running statistics of every BatchNorm to the average over the loader's batches.

    Args:
        network: Network to change, on the device. It is left in training mode.
        loader: Loader of the images.
        device: Device of the network.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then computes a cumulative average
    network.train()
    for images, _, _ in loader:
        network(images.to(device))


def _networks(
    recipe: Recipe, model: BarlowTwins, untrained: BarlowTwins, train: ImageSource, device: torch.device
) -> Iterator[tuple[str, BarlowTwins]]:
    """Yield the networks to compare, in evaluation mode, with their names."""
    yield "untrained", untrained.eval()
    # BatchNorm needs two images. An incomplete batch is left out, because its statistics would count as much as others.
    batch_size, most = max(2, recipe.eval.batch_size), min(_CALIBRATION_IMAGES, len(train))
    calibrating = at_most(train, most // batch_size * batch_size or most, recipe.run.seed)
    # Every rank estimates on the same images, so that all ranks have the same network.
    loader = build_eval_loader(recipe, calibrating, device, rank=0, world_size=1, batch_size=batch_size)
    calibrate_batch_norm(nn.Sequential(untrained.backbone, untrained.projector), loader, device)
    yield "calibrated", untrained.eval()
    yield "pretrained", model.eval()


def _knn_top1(recipe: Recipe, known: Features, queries: Features) -> float:
    accuracy = knn_accuracy(known, queries, k=recipe.eval.knn_k, temperature=recipe.eval.knn_temperature)
    return accuracy.top1 / accuracy.n
