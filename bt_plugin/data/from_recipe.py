"""Open the images of a recipe and build its loaders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator

from bt_plugin.config.data import Data
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.section import text_of
from bt_plugin.data.value_range import at_full_depth, check_same_depth, with_range_of
from bt_plugin.errors import RecipeError
from bt_plugin.runtime import collectives
from dali_pipelines.backend import Backend, resolve_backend
from dali_pipelines.eval_loader import EvalLoader
from dali_pipelines.loaders import TwoViewLoader, check_window
from dali_pipelines.sources import ImageSource, Relabeled, open_source, several_sources
from dali_pipelines.views.params import Tuning

logger = logging.getLogger(__name__)

# Begin of data.train and data.val if the images are not at a path.
OF_PYTHON = "<"


def open_sources(
    recipe: Recipe, *, train: ImageSource | None = None, val: ImageSource | None = None
) -> tuple[ImageSource, ImageSource | None]:
    """Open the training images, and the validation images with the class numbers of the training images.

    Pretraining needs no classes. Validation images of a class that the training images do not have are therefore left
    out with a warning, all of them.

    Args:
        recipe: Recipe of the run. Its section ``data`` and model.in_chans are used.
        train: Training images that are already open. Default: those of data.train.
        val: Validation images that are already open. Default: those of data.val.

    Returns:
        The training images, and the validation images or None.

    Raises:
        RecipeError: If a path does not exist or has no images, if its images have other channels than the model, or if
            they cannot be shuffled in windows.
    """
    data, channels = recipe.data, recipe.model.in_chans
    train, val = open_pair(data, train=train, val=val)
    for key, path, source in (("data.train", data.train, train), ("data.val", data.val, val)):
        if source and source.channels != (3 if channels == 1 else channels):
            raise RecipeError(
                f"{key}: the images of {text_of(path or '')} have {source.channels} channels, and model.in_chans is"
                f" {channels}; set model.in_chans={source.channels}, and views.both.mean and views.both.std with"
                f" {source.channels} values each"
            )
    try:
        check_window(train, recipe.data.shuffle_window)
    except ValueError as error:
        raise RecipeError(f"data.{error}") from error
    if val is not None and val.has_labels and train.has_labels:
        try:
            val = with_classes_of(train, val, text_of(data.val or ""))
        except RecipeError as error:
            if collectives.is_main():
                logger.warning("%s. The run trains without evaluation on data.val.", error)
            val = None
    return train, val


def open_pair(
    data: Data, *, train: ImageSource | None = None, val: ImageSource | None = None
) -> tuple[ImageSource, ImageSource | None]:
    """Open training and validation images. Both have the value range of the training images.

    Args:
        data: Section ``data`` of the recipe.
        train: Training images that are already open. Default: those of data.train.
        val: Validation images that are already open. Default: those of data.val, or None if it is not set.

    Raises:
        RecipeError: As for open_named, or if the pixels of both have different types.
        StorageError: If a remote storage does not answer.
    """
    known = open_named("data.train", data.train, data, data.weights, given=train)
    if val is None and data.val is None:
        return known, None
    if val is None and train is None and data.val == data.train and collectives.is_main():
        logger.warning(
            "data.val: %s is data.train too. Its accuracies say nothing about other images. Set data.val to images that"
            " are not in data.train",
            text_of(data.train),
        )
    queries = open_named("data.val", data.val or "", with_range_of(data, known), given=val)
    check_same_depth(known, queries)
    return known, queries


def open_named(
    key: str,
    path: str | tuple[str, ...],
    data: Data,
    weights: Sequence[float] | None = None,
    *,
    given: ImageSource | None = None,
) -> ImageSource:
    """Open the images that a key of a recipe names.

    Args:
        key: Key of the recipe, for the message.
        path: Value of the key: a path, or the paths of several sources.
        data: Section ``data`` of the recipe, which says how images are read.
        weights: Value of data.weights, if the key has several sources.
        given: The images, if they are already open. Then the path is not used.

    Raises:
        RecipeError: If a path does not exist or has no images, the sources do not fit together, or the images have no
            such value range or channels.
        StorageError: If a remote storage does not answer.
    """
    if given is not None:
        return at_full_depth(key, given, data)
    paths = (path,) if isinstance(path, str) else path
    for each in paths:
        if each.startswith(OF_PYTHON):
            raise RecipeError(
                f"{key}: {each} are images that a Python program gave; give {key}=PATH, or the images in Python again"
            )
    try:
        source = several_sources([open_source(each, storage=data.storage) for each in paths], weights)
    except ValueError as error:
        section = "data." if str(error).startswith("weights: ") else f"{key}: "
        raise RecipeError(f"{section}{error}") from error
    return at_full_depth(key, source, data)


def with_classes_of(train: ImageSource, val: ImageSource, val_path: str) -> ImageSource:
    """Return validation images whose labels are the class numbers of the training images.

    Classes are compared by their names. Their order may differ, and the validation images may lack some of them.

    Args:
        train: Training images with labels.
        val: Validation images with labels.
        val_path: Value of data.val, for the message.

    Raises:
        RecipeError: If validation images have a class that the training images do not have.
    """
    try:
        return val if val.classes == train.classes else Relabeled(val, train.classes)
    except ValueError as error:
        raise RecipeError(
            f"data.val: {val_path} has {error}; every class must be in data.train. Rename or remove them, or set"
            " another data.val"
        ) from error


def build_loader(recipe: Recipe, source: ImageSource, accelerator: Accelerator) -> TwoViewLoader:
    """Build the loader of this rank's two views.

    Args:
        recipe: Recipe of the run.
        source: Training images.
        accelerator: Accelerator of this rank.

    Raises:
        RecipeError: If the global batch does not divide over the ranks, or if the batches that are computed ahead do
            not fit into memory.
    """
    batch_size = recipe.batch_size_per_rank(accelerator.num_processes)
    kept = source.kept_images
    if recipe.data.shuffle_window is None and kept is not None and collectives.is_main():
        logger.warning(
            "data.shuffle_window: is not set, so almost every image decodes a whole row group of its file; set it to at"
            " most %d",
            kept,
        )
    try:
        backend = backend_of(recipe.data, accelerator.device)
        if resolve_backend(backend).name == "dali":
            backend = replace(backend, tuning=Tuning(hw_decoder_load=recipe.data.hw_decoder_load))
        return TwoViewLoader(
            source,
            batch_size,
            views=recipe.preset,
            backend=replace(
                backend, prefetch=recipe.data.prefetch, augment=recipe.data.augment, on_device=recipe.data.on_device
            ),
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            seed=recipe.run.seed,
            shuffle_window=recipe.data.shuffle_window,
            micro_batches=recipe.optim.accumulation_steps,
            max_bad_files=recipe.data.max_bad_files,
        )
    except ValueError as error:
        raise RecipeError(f"data.{error}") from error


def build_eval_loader(
    recipe: Recipe,
    source: ImageSource,
    device: torch.device,
    *,
    rank: int | None = None,
    world_size: int | None = None,
    batch_size: int | None = None,
) -> EvalLoader:
    """Build the loader of a run's evaluation images: resized and center-cropped.

    Unreadable images are replaced as in training, up to data.max_bad_files.

    Args:
        recipe: Recipe of the run.
        source: Images to load.
        device: Device of the run.
        rank: Rank whose share of the images is loaded. Default: this process's rank.
        world_size: Number of ranks that share the images. Default: all ranks of the run.
        batch_size: Images per batch, 1 or more. Default: eval.batch_size.
    """
    return EvalLoader(
        source,
        batch_size or recipe.eval.batch_size,
        recipe.preset.eval_params(),
        backend=backend_of(recipe.data, device),
        rank=rank,
        world_size=world_size,
        max_bad_files=recipe.data.max_bad_files,
    )


def backend_of(data: Data, device: torch.device) -> Backend:
    """Return the backend of a recipe's loaders.

    Args:
        data: Section ``data`` of the recipe.
        device: Device of the run.
    """
    return Backend(
        data.backend,
        device="gpu" if device.type == "cuda" else "cpu",
        num_threads=data.num_threads,
        max_pixels=data.max_pixels,
    )
