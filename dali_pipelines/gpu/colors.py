"""The color arithmetic of the Triton kernels: color steps, luma, and truncation to levels.

Colors are whole numbers from 0 to 255 in float32, and every step truncates as PIL does.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dali_pipelines.gpu import table as columns
from dali_pipelines.views.draws import COLOR_STEPS

# Triton's code may use only such constants of its module.
_STEPS, _FACTORS, _HUE_MATRIX = (tl.constexpr(at) for at in (columns.STEPS, columns.FACTORS, columns.HUE_MATRIX))
_CONTRAST, _SATURATION, _HUE = (tl.constexpr(COLOR_STEPS.index(name)) for name in ("contrast", "saturation", "hue"))


@triton.jit
def apply_steps(red, green, blue, row, count, mean_luma, in_yiq: tl.constexpr):
    """Return colors after the first `count` color steps of a row of the table.

    Args:
        red: Tile of red values.
        green: Tile of green values.
        blue: Tile of blue values.
        row: Row of the sample.
        count: Number of steps.
        mean_luma: Mean luma of the whole image before the contrast step, rounded. Not used without a contrast.
        in_yiq: Whether the hue step is a matrix.
    """
    for turn in range(0, count):
        step = whole(row + _STEPS + turn)
        factor = tl.load(row + _FACTORS + step)
        if step == _HUE:
            if in_yiq:
                red, green, blue = _rotate_hue(red, green, blue, row + _HUE_MATRIX)
            else:
                red, green, blue = _shift_hue(red, green, blue, factor)
        else:
            constant = tl.where(step == _CONTRAST, mean_luma, 0.0)
            toward = tl.where(step == _SATURATION, luma(red, green, blue), constant)
            red = level(toward + factor * (red - toward))
            green = level(toward + factor * (green - toward))
            blue = level(toward + factor * (blue - toward))
    return red, green, blue


@triton.jit
def _shift_hue(red, green, blue, sextants):
    """Turn the hue in HSV, and keep value and chroma. dali.augment.shift_hue derives the formula."""
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    along = tl.where(is_red, green - blue, tl.where(is_green, blue - red, red - green))
    base = tl.where(is_red, 0.0, tl.where(is_green, 2.0, 4.0))
    hue = tl.math.div_rn(along, tl.maximum(chroma, 1.0)) + base + sextants
    hue = hue - 6.0 * tl.floor(hue * (1 / 6))
    least = value - chroma + 0.5
    red = level(least + chroma * _unit(tl.abs(hue - 3.0) - 1.0))
    green = level(least + chroma * _unit(2.0 - tl.abs(hue - 2.0)))
    blue = level(least + chroma * _unit(2.0 - tl.abs(hue - 4.0)))
    return red, green, blue


@triton.jit
def _rotate_hue(red, green, blue, matrix):
    """Multiply each color by the matrix, rounded to nearest."""
    new_red = _weighted(red, green, blue, matrix)
    new_green = _weighted(red, green, blue, matrix + 3)
    new_blue = _weighted(red, green, blue, matrix + 6)
    return new_red, new_green, new_blue


@triton.jit
def _weighted(red, green, blue, weights):
    return level(tl.load(weights) * red + tl.load(weights + 1) * green + tl.load(weights + 2) * blue + 0.5)


@triton.jit
def luma(red, green, blue):
    """Return PIL's mode L. float32 is exact here, because every sum is a whole number below 2**24."""
    return tl.floor((red * 19595.0 + green * 38470.0 + blue * 7471.0 + 32768.0) * (1 / 65536))


@triton.jit
def level(value):
    """Truncate to a whole number in [0, 255]. From 0 on, floor truncates, and it is a single instruction."""
    return tl.floor(tl.minimum(tl.maximum(value, 0.0), 255.0))


@triton.jit
def _unit(value):
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@triton.jit
def whole(pointer):
    return tl.load(pointer).to(tl.int32)
