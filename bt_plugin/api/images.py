"""Images that a Python program gives: a path, a source, or a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bt_plugin.errors import RecipeError

if TYPE_CHECKING:
    from dali_pipelines.sources import ImageSource
    from dali_pipelines.sources.datasets import MapDataset

    Images = str | Path | ImageSource | MapDataset


def given_images(**given: Images | None) -> tuple[dict[str, ImageSource | None], dict[str, str]]:
    """Open the images that are no paths.

    Args:
        given: Images by the key of section data. None: those of the recipe.

    Returns:
        The source of each key, or None, and the overrides of the recipe that name the given images.

    Raises:
        RecipeError: If a dataset cannot be used.
    """
    opened: dict[str, ImageSource | None] = {}
    named: dict[str, str] = {}
    for key, images in given.items():
        opened[key] = None
        if isinstance(images, (str, Path)):
            named[f"data.{key}"] = str(images)
        elif images is not None:
            # The begin is data.from_recipe.OF_PYTHON: no path to open.
            named[f"data.{key}"] = f"<{type(images).__name__}>"
            opened[key] = _source_of(images, key)
    return opened, named


def _source_of(images: ImageSource | MapDataset, key: str) -> ImageSource:
    from dali_pipelines.sources import ImageSource
    from dali_pipelines.sources.datasets import dataset_source

    try:
        return images if isinstance(images, ImageSource) else dataset_source(images)
    except ValueError as error:
        raise RecipeError(f"{key}: {error}") from error
