"""Open images of more than 8 bits or other channels than RGB as a recipe says, and keep the range of a run."""

from __future__ import annotations

from typing import TypeVar

from bt_plugin.config.data import Data
from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError
from dali_pipelines.depth.full_depth import full_depth
from dali_pipelines.depth.source import FullDepthSource
from dali_pipelines.sources import ImageSource

_Data = TypeVar("_Data", bound=Data)


def at_full_depth(key: str, source: ImageSource, data: Data) -> ImageSource:
    """Return the images with data.channels, and with data.value_range mapped to 0 to 255.

    Args:
        key: Key of the recipe that names the images, for messages.
        source: The images as they are stored.
        data: Section ``data`` of the recipe.

    Raises:
        RecipeError: If the images have no such range or channels.
        StorageError: If a remote storage does not answer.
    """
    has_range = source.kind == "pixels" and source.pixel_dtype.kind == "f"
    rule = data.value_range if has_range or data.value_range_used is None else data.value_range_used
    try:
        return full_depth(source, value_range=rule, channels=data.channels, max_pixels=data.max_pixels)
    except ValueError as error:
        of_data = str(error).startswith(("value_range: ", "channels: "))
        raise RecipeError(f"data.{error}" if of_data else f"{key}: {error}") from error


def with_range_of(data: _Data, source: ImageSource) -> _Data:
    """Return the section with the range that was found in the training images.

    Args:
        data: Section ``data`` of the recipe.
        source: The training images.
    """
    if not isinstance(source, FullDepthSource):
        return data
    return data.model_copy(update={"value_range_used": source.value_range})


def keep_range(recipe: Recipe, source: ImageSource) -> Recipe:
    """Return the recipe of a run, with the range that was found in its training images.

    Args:
        recipe: Recipe of the run.
        source: The training images.
    """
    return recipe.model_copy(update={"data": with_range_of(recipe.data, source)})


def check_same_depth(train: ImageSource, val: ImageSource) -> None:
    """Raise if the range of the training images does not fit the validation images.

    Args:
        train: Training images.
        val: Validation images.

    Raises:
        RecipeError: If the pixels have different types.
    """
    if isinstance(train, FullDepthSource) and isinstance(val, FullDepthSource) and val.found.dtype != train.found.dtype:
        raise RecipeError(
            f"data.val: its images are {val.found.dtype}, and those of data.train are {train.found.dtype}, whose value"
            " range is used for both; store both with the same type"
        )


def said_of(source: ImageSource) -> str | None:
    """Describe depth, channels and range of images, or return None if they have 8 bits and three channels.

    Args:
        source: The images.
    """
    if not isinstance(source, FullDepthSource):
        return None
    found, ranges = source.found, source.value_range
    if ranges == "window":
        becomes = "the window of each file becomes 0 to 255"
    else:
        of_channels = [f"{low:g} to {high:g}" for low, high in ranges]
        shown = of_channels[:1] if len(set(of_channels)) == 1 else of_channels
        becomes = f"{', '.join(shown)} become 0 to 255"
    return (
        f"{found.format} images of {found.bits} bits ({found.dtype}) and {found.channels} channel(s);"
        f" {found.least:g} to {found.most:g} in {found.images} of them; {becomes}"
    )
