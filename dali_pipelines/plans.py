"""The plan of a batch: its images and random numbers, before any pixel is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
