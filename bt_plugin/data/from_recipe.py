"""What a recipe describes, made: the model, the images, and how they are loaded."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from accelerate import Accelerator

from bt_plugin.config.recipe import Data, Recipe
from bt_plugin.errors import RecipeError
from bt_plugin.runtime import collectives
from dali_pipelines.backend import Backend
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
    batch_size = recipe.batch_size_per_rank(accelerator.num_processes)
    try:
        backend = backend_of(recipe.data, accelerator.device)
        if backend.device == "gpu" or backend.name == "dali":
            backend = replace(backend, tuning=Tuning(hw_decoder_load=recipe.data.hw_decoder_load))
        return TwoViewLoader(
            source,
            batch_size,
            views=recipe.preset,
            backend=replace(backend, prefetch=recipe.data.prefetch),
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            seed=recipe.run.seed,
            micro_batches=recipe.optim.accumulation_steps,
            max_bad_files=recipe.data.max_bad_files,
        )
    except ValueError as error:
        raise RecipeError(f"data.{error}") from error


def build_eval_loader(
    recipe: Recipe, source: ImageSource, device: torch.device, *, rank: int | None = None, world_size: int | None = None
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
        backend=backend_of(recipe.data, device),
        rank=rank,
        world_size=world_size,
        max_bad_files=recipe.data.max_bad_files,
    )


def backend_of(data: Data, device: torch.device) -> Backend:
    """Return the backend that a recipe's loaders use in a run on the device."""
    on_gpu = device.type == "cuda" and data.backend != "native"
    return Backend(
        data.backend, device="gpu" if on_gpu else "cpu", num_threads=data.num_threads, max_pixels=data.max_pixels
    )
