"""Turn a view's mean and std into one multiplication and one addition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.views.params import EvalParams, ViewParams


def scale_and_offset(params: ViewParams | EvalParams) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return scale and offset such that value * scale + offset = (value / 255 - mean) / std.

    Args:
        params: Parameters of the view.

    Shape:
        Both: (params.channels,) float32.
    """
    mean, std = np.array(params.mean), np.array(params.std)
    if params.channels == 1:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def levels(params: ViewParams | EvalParams) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the scale and the offset that leave values as they are, from 0 to 255.

    Args:
        params: Parameters of the view.

    Shape:
        Both: (params.channels,) float32.
    """
    return np.ones(params.channels, dtype=np.float32), np.zeros(params.channels, dtype=np.float32)
