"""What is to be made: one batch, before it has pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.views.draws import ViewDraws


@dataclass(frozen=True)
class Plan:
    """One batch of n samples that is to be made.

    Args:
        indices: (n,) int64, into the source.
        draws: Of each view, for n samples; none for the evaluation view.
    """

    indices: NDArray[np.int64]
    draws: tuple[ViewDraws, ...] = ()
