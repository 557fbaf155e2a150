"""What a recipe describes, made: the model, the images, and how they are loaded."""

from __future__ import annotations

import logging
from typing import Any

import torch
from accelerate import Accelerator

from bt_plugin.config.recipe import Data, Recipe
from bt_plugin.errors import RecipeError
from bt_plugin.runtime import collectives
from dali_pipelines.eval_loader import EvalLoader
from dali_pipelines.loaders import TwoViewLoader
from dali_pipelines.sources import ImageSource, Relabelled, open_source
from dali_pipelines.views.params import Tuning

logger = logging.getLogger(__name__)


def open_sources(recipe: Recipe) -> tuple[ImageSource, ImageSource | None]:
    """Open the training images, and the validation images with the class numbers of the training images.

    Pretraining needs no classes, so validation images with classes of their own are left out with a warning.

    Raises:
        RecipeError: If one is missing or empty, or its images have other channels than the model.
    """
    sources = []
    for key, path in (("data.train", recipe.data.train), ("data.val", recipe.data.val)):
        source = open_named(key, path) if path is not None else None
        channels = recipe.model.in_chans
        if source and source.channels != (3 if channels == 1 else channels):
            raise RecipeError(
                f"{key}: the images of {path} have {source.channels} channels, and model.in_chans is {channels};"
                f" give model.in_chans={source.channels}, and views.both.mean and views.both.std with as many values"
            )
        sources.append(source)
    train, val = sources
    assert train is not None, "data.train is not optional"
    if val is not None and val.has_labels and train.has_labels:
        try:
            val = with_classes_of(train, val, str(recipe.data.val))
        except RecipeError as error:
            if collectives.is_main():
                logger.warning("%s. The run trains without evaluation on data.val.", error)
            val = None
    return train, val


def open_named(key: str, path: str) -> ImageSource:
    """The images that a key of a recipe names.

    Raises:
        RecipeError: If there are none.
    """
    try:
        return open_source(path)
    except ValueError as error:
        raise RecipeError(f"{key}: {error}") from error


def with_classes_of(train: ImageSource, val: ImageSource, val_path: str) -> ImageSource:
    """Return validation images whose labels are the class numbers of the training images.

    Classes are the same if their names are. Their order may differ, and validation images may lack some of them.

    Args:
        train: With labels.
        val: With labels.
        val_path: What data.val is, for the message.

    Raises:
        RecipeError: If there are validation images of a class that the training images do not have.
    """
    try:
        return val if val.classes == train.classes else Relabelled(val, train.classes)
    except ValueError as error:
        raise RecipeError(
            f"data.val: {val_path} has {error}; every class must be one of data.train. Rename or remove them, or set"
            " another data.val"
        ) from error


def build_loader(recipe: Recipe, source: ImageSource, accelerator: Accelerator) -> TwoViewLoader:
    """This rank's two views.

    Raises:
        RecipeError: If the batch does not divide over the ranks, or the batches made ahead do not fit into memory.
    """
    options = loader_options(recipe.data, accelerator.device)
    by_dali = options["device"] == "gpu" or recipe.data.backend == "dali"
    batch_size = recipe.batch_size_per_rank(accelerator.num_processes)
    try:
        return TwoViewLoader(
            source,
            batch_size,
            views=recipe.preset,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            seed=recipe.run.seed,
            prefetch=recipe.data.prefetch,
            micro_batches=recipe.optim.accumulation_steps,
            max_bad_files=recipe.data.max_bad_files,
            tuning=Tuning(hw_decoder_load=recipe.data.hw_decoder_load) if by_dali else None,
            **options,
        )
    except ValueError as error:
        raise RecipeError(f"data.{error}") from error


def build_eval_loader(
    recipe: Recipe, source: ImageSource, device: torch.device, rank: int | None = None, world_size: int | None = None
) -> EvalLoader:
    """Images as a run evaluates on them; of what cannot be read, as much is replaced as in training.

    Args:
        recipe: Of the run.
        source: The images.
        device: Of the run.
        rank: Whose share they are; by default this process's.
        world_size: Of the ranks that share them.
    """
    return EvalLoader(
        source,
        recipe.eval.batch_size,
        recipe.preset.eval_params(),
        rank=rank,
        world_size=world_size,
        max_bad_files=recipe.data.max_bad_files,
        **loader_options(recipe.data, device),
    )


def loader_options(data: Data, device: torch.device) -> dict[str, Any]:
    """What every loader is given: who makes the views, where, by how many threads."""
    on_gpu = device.type == "cuda" and data.backend != "native"
    return {
        "device": "gpu" if on_gpu else "cpu",
        "backend": data.backend,
        "num_threads": data.num_threads,
        "max_pixels": data.max_pixels,
    }
