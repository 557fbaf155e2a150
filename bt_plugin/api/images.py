"""Images that a Python program gives: a path, a source, a list of these, or a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bt_plugin.errors import RecipeError

if TYPE_CHECKING:
    from dali_pipelines.sources import ImageSource
    from dali_pipelines.sources.datasets import MapDataset

    Images = str | Path | ImageSource | Sequence[str | Path | ImageSource] | MapDataset


def given_images(**given: Images | None) -> tuple[dict[str, ImageSource | None], dict[str, Any]]:
    """Open the images that are no paths.

    Args:
        given: Images by the key of section data. None: those of the recipe.

    Returns:
        The source of each key, or None, and the overrides of the recipe that name the given images.

    Raises:
        RecipeError: If a dataset cannot be used.
    """
    opened: dict[str, ImageSource | None] = {}
    named: dict[str, Any] = {}
    for key, images in given.items():
        opened[key] = None
        if isinstance(images, (str, Path)):
            named[f"data.{key}"] = str(images)
        elif isinstance(images, (list, tuple)) and images and all(isinstance(each, (str, Path)) for each in images):
            named[f"data.{key}"] = [str(each) for each in images]
        elif images is not None:
            # The begin is data.from_recipe.OF_PYTHON: no path to open.
            named[f"data.{key}"] = f"<{type(images).__name__}>"
            opened[key] = _source_of(images, key)
    return opened, named


def _source_of(images: Any, key: str) -> ImageSource:
    from dali_pipelines.sources import ImageSource, open_source, several_sources
    from dali_pipelines.sources.datasets import dataset_source

    try:
        if isinstance(images, ImageSource):
            return images
        if isinstance(images, (list, tuple)) and any(isinstance(each, ImageSource) for each in images):
            return several_sources([each if isinstance(each, ImageSource) else open_source(each) for each in images])
        return dataset_source(images)
    except ValueError as error:
        raise RecipeError(f"{key}: {error}") from error
