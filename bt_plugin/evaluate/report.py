"""The three numbers that a run ends with: kNN on raw pixels, untrained and pretrained features."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from bt_plugin.evaluate.features import Features, extract_features, raw_pixels
from bt_plugin.evaluate.knn import knn_top1
from bt_plugin.method import BarlowTwins
from bt_plugin.recipe import Recipe
from dali_pipelines.loaders import EvalLoader
from dali_pipelines.sources import ImageSource


def evaluate_knn(
    recipe: Recipe,
    model: BarlowTwins,
    untrained: BarlowTwins,
    train: ImageSource,
    val: ImageSource | None,
    device: torch.device,
) -> dict[str, float] | None:
    """kNN top-1 on the validation images as {raw, untrained, pretrained}; None where there are no labels.

    To be called on every rank; each takes its share of the images.
    """
    if not recipe.eval.knn or val is None or not (train.has_labels and val.has_labels):
        return None
    loader = partial(
        EvalLoader,
        batch_size=recipe.eval.batch_size,
        params=recipe.preset.eval_params(),
        device="gpu" if device.type == "cuda" else "cpu",
        num_threads=recipe.data.num_threads,
    )
    bank = _subset(train, recipe.eval.knn_bank_images, recipe.run.seed)
    embeds = {
        "raw": raw_pixels,
        "untrained": untrained.backbone.to(device).eval(),
        "pretrained": model.backbone.eval(),
    }
    features: dict[str, list[Features]] = {
        name: [extract_features(embed, loader(source), device) for source in (bank, val)]
        for name, embed in embeds.items()
    }
    model.train()
    return {
        name: knn_top1(*pair, k=recipe.eval.knn_k, temperature=recipe.eval.knn_temperature)
        for name, pair in features.items()
    }


def _subset(source: ImageSource, most: int, seed: int) -> ImageSource:
    if len(source) <= most:
        return source
    kept = np.sort(np.random.default_rng(seed).choice(len(source), most, replace=False))
    files = tuple(source.files[index] for index in kept)
    return ImageSource(source.root, files, source.labels[kept], source.classes)
