"""Map the drawn flips and turns of a view to one transposition and two flips.

A view is flipped horizontally, then vertically, then turned counter-clockwise. Every result of these is one of eight
orientations. Each is also a transposition or none, then a vertical flip or none, then a horizontal flip or none. In
this form the horizontal flip can stay where it is computed without turns: it commutes with all steps after the resize.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.views.draws import ViewDraws
from dali_pipelines.views.params import ViewParams


class Orientation(NamedTuple):
    """How a batch of crops is oriented: first transposed, then flipped vertically, then flipped horizontally.

    Shape:
        - transposed, upside_down, mirrored: (n,) bool.
    """

    transposed: NDArray[np.bool_]
    upside_down: NDArray[np.bool_]
    mirrored: NDArray[np.bool_]


def orientation(draws: ViewDraws) -> Orientation:
    """Return the orientation of the samples of a batch.

    Args:
        draws: Random numbers of the view.
    """
    turns = draws.quarter_turns
    transposed = turns % 2 == 1
    # A turn by 90 degrees is a transposition, then a vertical flip. A turn by 270 is one, then a horizontal flip. A
    # flip before the transposition is the other flip after it.
    upside_down = np.where(transposed, draws.flip, draws.flip_v) ^ ((turns == 1) | (turns == 2))
    mirrored = np.where(transposed, draws.flip_v, draws.flip) ^ (turns >= 2)
    return Orientation(transposed, upside_down, mirrored)


def has_turns(view: ViewParams) -> bool:
    """Return whether a view may be transposed or flipped vertically.

    Args:
        view: Parameters of the view.
    """
    return view.flip_v_p > 0 or view.rot90_p > 0


def turned(pixels: NDArray[Any], draws: ViewDraws, row: int) -> tuple[NDArray[Any], bool]:
    """Return a crop transposed and flipped vertically, and whether a later step must flip it horizontally.

    Args:
        pixels: Crop after its resize.
        draws: Random numbers of the view.
        row: Position of the sample in the batch.

    Shape:
        - pixels: (S, S, C).
        - Output: (S, S, C), contiguous.
    """
    transposed, upside_down, mirrored = (bool(each[row]) for each in orientation(draws))
    if not transposed:
        return np.ascontiguousarray(pixels[::-1] if upside_down else pixels), mirrored
    out = np.empty(pixels.shape, pixels.dtype)
    rows = out[::-1] if upside_down else out
    # NumPy transposes one channel after the other six times as fast as all at once.
    for channel in range(pixels.shape[2]):
        rows[:, :, channel] = pixels[:, :, channel].T
    return out, mirrored
