"""Put the parameters of a view's batch into one table of float32, which the kernels read.

A table travels to the GPU in one copy. It has a row for each sample. Behind the rows it has the scale and the offset of
each channel of the view. All whole numbers in it are exact in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.views.draws import COLOR_STEPS, ViewDraws
from dali_pipelines.views.normalization import scale_and_offset
from dali_pipelines.views.orientation import orientation
from dali_pipelines.views.params import ViewParams
from dali_pipelines.views.yiq import hue_matrix

# The columns of a row.
STEPS = 0  # 4 columns: color steps as indices into COLOR_STEPS, in their order
STEP_COUNT = 4  # number of color steps, 0 to 4
CONTRAST_AT = 5  # position of the contrast among the steps; STEP_COUNT without one
FACTORS = 6  # 4 columns: factor of each color step, by its index; the hue's is a shift in sextants
GRAY = 10  # 1 or 0
SOLARIZE = 11  # 1 or 0
FLIP = 12  # 1 or 0: whether the turned crop is flipped horizontally
RADIUS = 13  # radius of the blur, in px; 0 is no blur
HUE_MATRIX = 14  # 9 columns: matrix of the hue step in YIQ, row by row
TAPS = 23  # radius + 1 columns: weights of the blur, from the middle outward

_CONTRAST, _HUE = COLOR_STEPS.index("contrast"), COLOR_STEPS.index("hue")
# A row begins at a multiple of 16 bytes, so that the compiler may read several columns at once.
_ROW_MULTIPLE = 4


class ViewTable(NamedTuple):
    """The table of one view of a batch, in memory of the host.

    Attributes:
        values: The whole table: rows, scale, offset.
        rows: The part of values that has a row for each sample.

    Shape:
        - values: (n * width + 2 * channels,) float32.
        - rows: (n, width) float32.
    """

    values: NDArray[np.float32]
    rows: NDArray[np.float32]

    @property
    def has_colors(self) -> bool:
        """Whether a sample has color steps or becomes gray."""
        return bool(self.rows[:, STEP_COUNT].any() or self.rows[:, GRAY].any())

    @property
    def has_blur(self) -> bool:
        """Whether a sample is blurred."""
        return bool(self.rows[:, RADIUS].any())


def view_table(draws: ViewDraws, view: ViewParams) -> ViewTable:
    """Return the table of one view.

    Args:
        draws: Random numbers of the view, for n samples.
        view: Parameters of the view.
    """
    n, width = len(draws.flip), _width(view)
    scale, offset = scale_and_offset(view)
    values = np.zeros(n * width + 2 * view.channels, dtype=np.float32)
    rows = values[: n * width].reshape(n, width)
    values[n * width :] = np.concatenate([scale, offset])
    steps = len(COLOR_STEPS)
    rows[:, STEPS : STEPS + steps] = draws.color_order
    rows[:, STEP_COUNT] = steps * draws.jitter
    rows[:, CONTRAST_AT] = draws.jitter * np.argmax(draws.color_order == _CONTRAST, axis=1)
    for number, name in enumerate(COLOR_STEPS):
        rows[:, FACTORS + number] = getattr(draws, name)
    rows[:, FACTORS + _HUE] *= 6
    rows[:, GRAY], rows[:, SOLARIZE], rows[:, FLIP] = draws.gray, draws.solarize, orientation(draws).mirrored
    if view.hue_space == "yiq":
        for row in np.flatnonzero(draws.jitter):
            rows[row, HUE_MATRIX:TAPS] = hue_matrix(draws.hue[row]).ravel()
    blurred = np.flatnonzero(draws.blur)
    _write_blur(rows, blurred, draws.blur_sigma_px[blurred].astype(np.float64), view.size_px)
    return ViewTable(values, rows)


def _width(view: ViewParams) -> int:
    """Return the number of columns. It depends on the view alone, because the kernels are compiled for it."""
    most = math.ceil(3 * float(np.float32(view.blur_sigma_px[1]))) if view.blur_p > 0 else 0
    columns = TAPS + 1 + min(most, view.size_px - 1)
    return -(-columns // _ROW_MULTIPLE) * _ROW_MULTIPLE


def _write_blur(
    rows: NDArray[np.float32], blurred: NDArray[np.intp], sigma_px: NDArray[np.float64], size_px: int
) -> None:
    """Write radius and weights of the blurred rows. The weights are those of `gaussian` of the native backend."""
    radii = np.minimum(np.ceil(3 * sigma_px), size_px - 1).astype(np.int64)
    rows[blurred, RADIUS] = radii
    # One radius at a time. Weights padded to a common length would be summed in another order, and round otherwise.
    for radius in np.unique(radii):
        same = radii == radius
        x = np.arange(-radius, radius + 1)
        weights = np.exp(-0.5 * (x / sigma_px[same, None]) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        rows[blurred[same], TAPS : TAPS + radius + 1] = weights[:, radius:]
