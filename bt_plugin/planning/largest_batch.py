"""The largest micro-batch that fits, from a step that was traced with two sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bt_plugin.config.recipe import Recipe
from bt_plugin.planning.memory import CONTEXT_GIB, FRAGMENTATION, GIB, loader_gib, of_further_micro_batches
from bt_plugin.planning.traced_step import TracedStep


def largest_micro_batch(recipe: Recipe, smaller: TracedStep, larger: TracedStep, *, usable_gib: float) -> int:
    """Return the most images of one forward pass that fit, 0 if two do not.

    Another micro-batch allocates the same tensors in the same order, and each of them grows by the same bytes for each
    image. So two steps tell what is allocated after each allocation with any micro-batch, and where the peak is then.

    Args:
        recipe: Recipe of the run.
        smaller: Its traced step.
        larger: The same step, traced with more images in a micro-batch.
        usable_gib: Memory of the GPU that is free, in GiB.
    """
    begun, ended = (np.array(list(_levels_bytes(recipe, step)), float) for step in (smaller, larger))
    if len(begun) != len(ended):  # such as a network that splits its batch
        begun, ended = (np.array([levels.max()]) for levels in (begun, ended))
    n = smaller.micro_batch_size
    image_gib = (ended - begun) / (larger.micro_batch_size - n) / GIB
    fixed_gib = begun / GIB - n * image_gib
    return _most(fixed_gib, image_gib, usable_gib=usable_gib, loader_image_gib=_loader_image_gib(recipe))


def with_loss_of(smaller: TracedStep, larger: TracedStep, *, micro_batch_size: int, loss_bytes: int) -> TracedStep:
    """Return the larger step with a loss that grows to the given size, because its form may change with the batch.

    Args:
        smaller: A traced step.
        larger: The same step, traced with more images in a micro-batch.
        micro_batch_size: Micro-batch for which the memory of the loss is known, more than that of the smaller step.
        loss_bytes: Most bytes that the loss allocates then.
    """
    n = smaller.micro_batch_size
    image_bytes = (loss_bytes - smaller.loss_bytes) / (micro_batch_size - n)
    grown = smaller.loss_bytes + image_bytes * (larger.micro_batch_size - n)
    return larger._replace(loss_bytes=round(grown))


def _most(
    fixed_gib: NDArray[np.float64], image_gib: NDArray[np.float64], *, usable_gib: float, loader_image_gib: float
) -> int:
    grows = image_gib * (1 + FRAGMENTATION) + loader_image_gib
    free = usable_gib - CONTEXT_GIB - fixed_gib * (1 + FRAGMENTATION)
    most = int(np.min(free[grows > 0] / grows[grows > 0]))
    return most if most >= 2 else 0


def _levels_bytes(recipe: Recipe, step: TracedStep) -> Iterator[int]:
    """Yield what is allocated after each allocation of a step with all its micro-batches, and last that in the loss."""
    in_backward, in_loss = of_further_micro_batches(recipe, step)
    for level in step.levels_bytes:
        yield level + in_backward
    yield step.at_loss_bytes + step.loss_bytes + in_loss


def _loader_image_gib(recipe: Recipe) -> float:
    return loader_gib(recipe, recipe.optim.accumulation_steps)
