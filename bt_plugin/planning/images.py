"""How many training images there are, and how large they are."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from bt_plugin.config.recipe import Recipe
from bt_plugin.data.from_recipe import open_sources
from bt_plugin.errors import RecipeError
from dali_pipelines.errors import StorageError

# Images whose size is read.
_SAMPLED = 32


class Images(NamedTuple):
    """The training images of a plan.

    Args:
        number: Number of images that an epoch sees, None if it is not known.
        mean_bytes: Mean bytes of a stored image, None if it is not known.
        notes: What is not known, and how to say it.
    """

    number: int | None
    mean_bytes: float | None
    notes: list[str]


def images_of(recipe: Recipe, num_images: int | None) -> Images:
    """Return the training images.

    Args:
        recipe: Recipe of the run.
        num_images: Number of images that an epoch sees, if they are on another machine.

    Raises:
        RecipeError: If there are fewer images than one global batch.
    """
    if num_images is not None:
        if num_images < recipe.optim.global_batch_size:
            raise RecipeError(
                f"--num-images: {num_images} is not allowed; it must be at least optim.global_batch_size, which is"
                f" {recipe.optim.global_batch_size}"
            )
        return Images(num_images, None, [])
    try:
        train, _ = open_sources(recipe)
    except (RecipeError, StorageError) as error:
        return Images(None, None, [f"The length of the run is not known: {error}. Give --num-images."])
    recipe.steps_per_epoch(train.epoch_length)
    step = max(1, len(train) // _SAMPLED)
    try:
        sizes = [train.read(index).nbytes for index in range(0, len(train), step)]
    except (OSError, ValueError, StorageError) as error:
        return Images(train.epoch_length, None, [f"The size of the images is not known: {error}."])
    return Images(train.epoch_length, statistics.mean(sizes), [])
