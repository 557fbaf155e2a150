"""What a recipe describes, made: the model, the images, and how they are loaded."""

from __future__ import annotations

from typing import Any

import torch

from bt_plugin.backbones import build_backbone
from bt_plugin.errors import RecipeError
from bt_plugin.method import BarlowTwins, build_projector
from bt_plugin.recipe import Recipe
from dali_pipelines.sources import ImageSource, open_source


def build_model(recipe: Recipe) -> BarlowTwins:
    """The untrained model, a function of the recipe alone.

    Raises:
        RecipeError: If there is no such backbone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        choice = recipe.model
        try:
            backbone, feature_dim = build_backbone(
                choice.backbone, choice.stem, choice.in_chans, choice.zero_init_residual
            )
        except (ValueError, ImportError) as error:
            raise RecipeError(f"model.backbone: {error}") from error
        return BarlowTwins(backbone, build_projector(feature_dim, choice.projector))


def open_sources(recipe: Recipe) -> tuple[ImageSource, ImageSource | None]:
    """Training and validation images.

    Raises:
        RecipeError: If one is missing or empty, or its images have other channels than the model.
    """
    sources = []
    for key, path in (("data.train", recipe.data.train), ("data.val", recipe.data.val)):
        try:
            source = open_source(path) if path is not None else None
        except ValueError as error:
            raise RecipeError(f"{key}: {error}") from error
        channels = recipe.model.in_chans
        if source and source.channels != (3 if channels == 1 else channels):
            raise RecipeError(
                f"{key}: the images of {path} have {source.channels} channels, and model.in_chans is {channels};"
                f" give model.in_chans={source.channels}, and views.both.mean and views.both.std with as many values"
            )
        sources.append(source)
    train, val = sources
    assert train is not None, "data.train is not optional"
    if val is not None and val.has_labels and train.has_labels and val.classes != train.classes:
        differing = sorted(set(train.classes) ^ set(val.classes))
        raise RecipeError(
            f"data.val: {recipe.data.val} must have the classes of data.train, or labels would not mean the same;"
            f" only one of them has {', '.join(differing[:5])}{' ...' if len(differing) > 5 else ''}"
        )
    return train, val


def loader_options(recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """What every loader of the run is given: who makes the views, where, by how many threads."""
    on_gpu = device.type == "cuda" and recipe.data.backend != "cpu"
    return {
        "device": "gpu" if on_gpu else "cpu",
        "backend": recipe.data.backend,
        "num_threads": recipe.data.num_threads,
        "max_pixels": recipe.data.max_pixels,
    }
