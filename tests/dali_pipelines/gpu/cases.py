"""Crops, draws and views for tests of the kernels, and what the native backend's kernel makes of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.gpu import table as columns
from dali_pipelines.gpu.table import ViewTable, view_table
from dali_pipelines.native import kernel
from dali_pipelines.native.stream import gaussian
from dali_pipelines.views.draws import ViewDraws, draw_views
from dali_pipelines.views.normalization import scale_and_offset
from dali_pipelines.views.orientation import turned
from dali_pipelines.views.params import ViewParams
from dali_pipelines.views.yiq import hue_matrix

MIXED: dict[str, Any] = {
    "jitter_p": 0.8, "gray_p": 0.3, "blur_p": 0.6, "solarize_p": 0.4,
    "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.5,
}  # fmt: skip
NO_COLORS: dict[str, Any] = {"jitter_p": 0.0, "gray_p": 0.0}
FIVE: dict[str, Any] = {"channels": 5, "mean": (0.1, 0.2, 0.3, 0.4, 0.5), "std": (0.2, 0.21, 0.22, 0.23, 0.24)}
OFF = dict.fromkeys(("flip_p", "jitter_p", "gray_p", "blur_p", "solarize_p"), 0.0)
# All orders of no, one, two, three or four different color steps: 65.
SEQUENCES = [order for count in range(5) for order in itertools.permutations(range(4), count)]
ORDERS = list(itertools.permutations(range(4)))


def in_all_orders(draws: ViewDraws) -> None:
    """Change draws so that every sample has color steps, and every order is there."""
    draws.jitter[:] = True
    draws.color_order[:] = [ORDERS[number % len(ORDERS)] for number in range(len(draws.jitter))]


def as_drawn(draws: ViewDraws) -> None:
    """Leave the draws as they are."""


@dataclass
class Case:
    """A batch of one view.

    Args:
        n: Number of samples.
        view: Changes to MIXED.
        channels: Channels of the crops.
        change: Changes the draws.
        by_sequence: Whether the samples have the color steps of SEQUENCES instead of those drawn.
    """

    n: int
    view: dict[str, Any]
    channels: int = 3
    change: Callable[[ViewDraws], None] = as_drawn
    by_sequence: bool = False
    params: ViewParams = field(init=False)

    def __post_init__(self) -> None:
        self.params = ViewParams(**{"size_px": 33, **MIXED, **self.view})
        self.draws = draw_views((self.params,), self.n, self.n)[0]
        self.change(self.draws)
        self.pixels = crops(self.n, self.params.size_px, self.channels)
        self.table = view_table(self.draws, self.params)
        if self.by_sequence:
            for row, sequence in zip(self.table.rows, SEQUENCES):
                contrast = kernel.CONTRAST
                row[columns.STEPS : columns.STEPS + len(sequence)] = sequence
                row[columns.STEP_COUNT] = len(sequence)
                row[columns.CONTRAST_AT] = sequence.index(contrast) if contrast in sequence else len(sequence)

    def expected(self) -> NDArray[np.float32]:
        """Return the native kernel's views, (n, S, S, channels of the view) float32."""
        return natively(self.pixels, self.draws, self.params, self.table if self.by_sequence else None)


def natively(
    pixels: NDArray[np.uint8], draws: ViewDraws, view: ViewParams, steps_of: ViewTable | None = None
) -> NDArray[np.float32]:
    """Return the native kernel's views of crops, which are turned here as in the native backend."""
    n, size, _, channels = pixels.shape
    out = np.full((n, size, size, view.channels), np.nan, dtype=np.float32)
    scratch = np.empty((2, size, channels, size), dtype=np.float32)
    for row in range(n):
        steps = draws.color_order[row] if draws.jitter[row] else draws.color_order[row, :0]
        if steps_of is not None:
            steps = steps_of.rows[row, : int(steps_of.rows[row, columns.STEP_COUNT])].astype(np.uint8)
        in_yiq = view.hue_space == "yiq"
        factors = (draws.brightness[row], draws.contrast[row], draws.saturation[row], 6 * draws.hue[row])
        crop, mirrored = turned(pixels[row], draws, row)
        kernel.augment(
            crop,
            mirrored,
            steps,
            np.array(factors, dtype=np.float32),
            hue_matrix(draws.hue[row]) if in_yiq else np.empty((0, 3), dtype=np.float32),
            bool(draws.gray[row]),
            gaussian(float(draws.blur_sigma_px[row]), size) if draws.blur[row] else np.ones(1, dtype=np.float32),
            bool(draws.solarize[row]),
            *scale_and_offset(view),
            scratch,
            out[row],
        )
    return out


def crops(n: int, size: int, channels: int) -> NDArray[np.uint8]:
    """Return noise, smooth crops, flat ones, black and white ones, and ones of four levels."""
    rng = np.random.default_rng(size)
    made = rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    y, x = np.mgrid[0:size, 0:size] / size
    for row in range(n):
        kind = row % 5
        if kind == 1:
            waves = [np.sin(frequency * (x + y * row)) for frequency in rng.uniform(1, 9, channels)]
            made[row] = 128 + rng.uniform(20, 120, channels) * np.stack(waves, axis=2)
        elif kind == 2:
            made[row] = rng.integers(0, 256, channels)
        elif kind == 3:
            made[row] = 255 * (made[row] > 127)
        elif kind == 4:
            made[row] = 85 * (made[row] // 64)
    return made


CASES = {
    "every sequence of color steps": Case(len(SEQUENCES), {"size_px": 8}, by_sequence=True),
    "all orders": Case(24, {}, change=in_all_orders),
    "radius up to S - 1": Case(30, {"size_px": 8, "blur_sigma_px": (0.1, 9.0)}),
    "even size": Case(12, {"size_px": 64}),
    "hue in YIQ": Case(16, {"hue_space": "yiq"}),
    "3 channels to 1": Case(12, {"channels": 1}),
    "1 channel": Case(10, {"channels": 1, **NO_COLORS}, channels=1),
    "2 channels": Case(
        5, {"channels": 2, "mean": (0.5,) * 2, "std": (0.2,) * 2, "size_px": 17, **NO_COLORS}, channels=2
    ),
    "4 channels": Case(
        5, {"channels": 4, "mean": (0.5,) * 4, "std": (0.2,) * 4, "size_px": 17, **NO_COLORS}, channels=4
    ),
    "5 channels": Case(10, {**FIVE, **NO_COLORS}, channels=5),
    "no augmentation": Case(3, OFF),
}
