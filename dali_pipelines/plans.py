"""The plan of a batch: its images and random numbers, before any pixel is read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources import ImageSource, Upcoming
from dali_pipelines.views.draws import ViewDraws


@dataclass(frozen=True)
class Plan:
    """The plan of one batch of n samples.

    Args:
        indices: Positions of the samples in the source, (n,) int64.
        draws: Random numbers of each view, for n samples; empty for the evaluation view.
    """

    indices: NDArray[np.int64]
    draws: tuple[ViewDraws, ...] = ()


def announced(
    source: ImageSource, steps: Iterable[int], upcoming: Callable[[int], Upcoming], *, images_per_step: int
) -> Iterator[int]:
    """Yield the steps in order, each after the images of the steps that follow it were announced to the source.

    Args:
        source: Source of the images. Its reads_ahead says how far it wants to know.
        steps: Numbers of the steps, in order; may be endless.
        upcoming: Function that returns the images of a step.
        images_per_step: Number of this rank's images per step.
    """
    if not source.reads_ahead:
        yield from steps
        return
    ahead = -(-source.reads_ahead // images_per_step)
    waiting: deque[int] = deque()
    for step in steps:
        source.announce(upcoming(step))
        waiting.append(step)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
