"""Compute kNN accuracies at the end of a run: of raw pixels, and of untrained and pretrained features."""

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

# Enough for the statistics of a few hundred channels, and fast compared with a run.
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
    """Return kNN top-1 accuracies on the validation images. Call it on every rank.

    Args:
        recipe: Recipe of the run.
        model: Pretrained model, on the device.
        untrained: Untrained model. Its BatchNorm statistics are changed.
        train: Training images.
        val: Validation images, or None.
        device: Device to compute on.

    Returns:
        Fractions of 1 with the keys raw, untrained, calibrated and pretrained. "calibrated" is the untrained network
        with BatchNorm statistics re-estimated on training images. It is the baseline to beat: much of the apparent
        gain of the first training steps comes from these statistics only. None if eval.knn is false or labels are
        missing.
    """
    if not recipe.eval.knn or val is None or not (train.has_labels and val.has_labels):
        return None
    bank = at_most(train, recipe.eval.knn_bank_images, recipe.run.seed)

    def top1(embed: Callable[[Tensor], Tensor]) -> float:
        known, queries = (
            extract_features(embed, build_eval_loader(recipe, source, device), device).to(device)
            for source in (bank, val)
        )
        accuracy = knn_accuracy(known, queries, k=recipe.eval.knn_k, temperature=recipe.eval.knn_temperature)
        return accuracy.top1 / accuracy.n

    scores = {"raw": top1(RawPixels()), "untrained": top1(untrained.backbone.to(device).eval())}
    # Every rank estimates on the same images, so that all ranks have the same network.
    calibrating = at_most(bank, _CALIBRATION_IMAGES, recipe.run.seed)
    first = build_eval_loader(recipe, calibrating, device, rank=0, world_size=1)
    calibrate_batch_norm(untrained.backbone, first, device)
    scores["calibrated"] = top1(untrained.backbone.eval())
    scores["pretrained"] = top1(model.backbone.eval())
    return scores


@torch.no_grad()
def calibrate_batch_norm(backbone: nn.Module, loader: EvalLoader, device: torch.device) -> None:
    """Set the running statistics of every BatchNorm to the average over the loader's batches.

    Args:
        backbone: Backbone to change, on the device. It is left in training mode.
        loader: Loader of the images.
        device: Device of the backbone.
    """
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then computes a cumulative average
    backbone.train()
    for images, _, _ in loader:
        backbone(images.to(device))
