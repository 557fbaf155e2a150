"""The numbers that a run ends with: kNN on raw pixels, untrained and pretrained features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bt_plugin.config.recipe import Recipe
from bt_plugin.data.from_recipe import build_eval_loader
from bt_plugin.evaluate.features import RawPixels, extract_features
from bt_plugin.evaluate.knn import knn_accuracy
from bt_plugin.evaluate.subsets import at_most
from bt_plugin.models.barlow_twins import BarlowTwins
from dali_pipelines.eval_loader import EvalLoader
from dali_pipelines.sources import ImageSource

# Enough for statistics of a few hundred channels, little next to a run.
_CALIBRATION_IMAGES = 1024


def evaluate_knn(
    recipe: Recipe,
    model: BarlowTwins,
    *,
    untrained: BarlowTwins,
    train: ImageSource,
    val: ImageSource | None,
    device: torch.device,
) -> dict[str, float] | None:
    """kNN top-1 on the validation images; None where there are no labels.

    To be called on every rank; each takes its share of the images.

    Returns:
        {raw, untrained, calibrated, pretrained}, fractions of 1. Calibrated is the untrained network
        with BatchNorm statistics of the training images: much of what it seems to gain by its first
        steps of training is only these, so it is the baseline to beat.
    """
    if not recipe.eval.knn or val is None or not (train.has_labels and val.has_labels):
        return None
    bank = at_most(train, recipe.eval.knn_bank_images, recipe.run.seed)

    def top1(embed: Callable[[Tensor], Tensor]) -> float:
        known, queries = (
            extract_features(embed, build_eval_loader(recipe, source, device), device) for source in (bank, val)
        )
        accuracy = knn_accuracy(known, queries, k=recipe.eval.knn_k, temperature=recipe.eval.knn_temperature)
        return accuracy.top1 / accuracy.n

    scores = {"raw": top1(RawPixels()), "untrained": top1(untrained.backbone.to(device).eval())}
    # Every rank estimates on the same images, so that all have the same network.
    calibrating = at_most(bank, _CALIBRATION_IMAGES, recipe.run.seed)
    first = build_eval_loader(recipe, calibrating, device, rank=0, world_size=1)
    calibrate_batch_norm(untrained.backbone, first, device)
    scores["calibrated"] = top1(untrained.backbone.eval())
    scores["pretrained"] = top1(model.backbone.eval())
    return scores


@torch.no_grad()
def calibrate_batch_norm(backbone: nn.Module, loader: EvalLoader, device: torch.device) -> None:
    """Sets the running statistics of every BatchNorm to the average over the loader's batches."""
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative average
    backbone.train()
    for images, _, _ in loader:
        backbone(images.to(device))
