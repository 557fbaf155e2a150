"""Compute one view after its resize, row by row: flip, color steps, gray, blur, solarization and normalization.

numba compiles the code, and it runs without the interpreter's lock. It is fast for two reasons. Every inner loop runs
over one contiguous row of one channel, so the loop is vectorized. The rows of a 224 px view stay in the processor's
cache from one step to the next. Colors are whole numbers from 0 to 255 in float32, and every step truncates as PIL
does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.native.compiled import compiled

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the order of draws.COLOR_STEPS

_0, _1, _2, _3, _4, _6 = (np.float32(number) for number in (0, 1, 2, 3, 4, 6))
_HALF, _128, _255 = np.float32(0.5), np.float32(128), np.float32(255)


@compiled
def augment(
    pixels: NDArray[np.uint8],
    flip: bool,
    steps: NDArray[np.uint8],
    factors: NDArray[np.float32],
    hue_matrix: NDArray[np.float32],
    gray: bool,
    taps: NDArray[np.float32],
    solarize: bool,
    scale: NDArray[np.float32],
    offset: NDArray[np.float32],
    scratch: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Write one view to `out`.

    Args:
        pixels: Crop after its resize, (S, S, C). Color steps and gray need 3 channels.
        flip: Whether left and right are exchanged.
        steps: Color steps, in their order; at most one CONTRAST.
        factors: Factor of each color step, (4,). The hue's is a shift in sextants of the color wheel.
        hue_matrix: Matrix that the hue step multiplies colors by, (3, 3); or (0, 3) to turn the hue in HSV.
        gray: Whether the view becomes gray.
        taps: Weights of the blur, an odd number, at most 2 S - 1; a single weight is no blur.
        solarize: Whether values of 128 and above are inverted.
        scale: Scale in value * scale + offset, one value per channel of out.
        offset: Offset in value * scale + offset, one value per channel of out.
        scratch: Working memory, (2, S, C, S).
        out: Output, (S, S, C), or (S, S, 1) for a view that ends as gray.
    """
    size = pixels.shape[0]
    contrast_at = steps.size
    for turn in range(steps.size):
        if steps[turn] == CONTRAST:
            contrast_at = turn
    planes, blurred = scratch[0], scratch[1]
    total = 0
    for y in range(size):
        _load(pixels[y], flip, planes[y])
        for turn in range(contrast_at):
            _color_step(steps[turn], planes[y], factors, hue_matrix, _0)
        if contrast_at < steps.size:
            total += _sum_of_gray(planes[y])
    mean_gray = np.float32(np.floor(total / (size * size) + 0.5))
    radius = taps.size // 2
    padded = np.empty(size + 2 * radius, np.float32)
    for y in range(size):
        for turn in range(contrast_at, steps.size):
            _color_step(steps[turn], planes[y], factors, hue_matrix, mean_gray)
        if gray:
            _to_gray(planes[y])
        if radius == 0:
            _store(planes[y], solarize, scale, offset, out[y])
        else:
            for channel in range(planes.shape[1]):
                blur_row(planes[y, channel], taps, padded, blurred[y, channel])
    if radius > 0:
        # The planes are no longer needed, so their first row stores the result.
        for y in range(size):
            _blur_column(blurred, y, taps, planes[0])
            _store(planes[0], solarize, scale, offset, out[y])


@compiled
def _load(pixels: NDArray[np.uint8], flip: bool, row: NDArray[np.float32]) -> None:
    last = row.shape[1] - 1
    for channel in range(row.shape[0]):
        into = row[channel]
        if flip:
            for x in range(into.size):
                into[x] = pixels[last - x, channel]
        else:
            for x in range(into.size):
                into[x] = pixels[x, channel]


@compiled
def _color_step(
    step: int,
    row: NDArray[np.float32],
    factors: NDArray[np.float32],
    hue_matrix: NDArray[np.float32],
    mean_gray: np.float32,
) -> None:
    if step == BRIGHTNESS:
        for channel in range(3):
            _blend(row[channel], _0, factors[BRIGHTNESS])
    elif step == CONTRAST:
        for channel in range(3):
            _blend(row[channel], mean_gray, factors[CONTRAST])
    elif step == SATURATION:
        _saturate(row[0], row[1], row[2], factors[SATURATION])
    elif hue_matrix.shape[0] == 0:
        _turn_hue(row[0], row[1], row[2], factors[HUE])
    else:
        _mix(row[0], row[1], row[2], hue_matrix)


@compiled
def _truncated(value: np.float32) -> np.float32:
    return np.float32(np.int32(min(max(value, _0), _255)))


@compiled
def _gray(red: np.float32, green: np.float32, blue: np.float32) -> np.int32:
    """Return PIL's mode L, with its 16-bit fixed-point weights: src/libImaging/Convert.c, L24."""
    return (np.int32(red) * 19595 + np.int32(green) * 38470 + np.int32(blue) * 7471 + 32768) >> 16


@compiled
def _blend(values: NDArray[np.float32], toward: np.float32, factor: np.float32) -> None:
    """Blend the values with one value, as PIL's Image.blend."""
    for x in range(values.size):
        values[x] = _truncated(toward + factor * (values[x] - toward))


@compiled
def _saturate(
    red: NDArray[np.float32], green: NDArray[np.float32], blue: NDArray[np.float32], factor: np.float32
) -> None:
    for x in range(red.size):
        toward = np.float32(_gray(red[x], green[x], blue[x]))
        red[x] = _truncated(toward + factor * (red[x] - toward))
        green[x] = _truncated(toward + factor * (green[x] - toward))
        blue[x] = _truncated(toward + factor * (blue[x] - toward))


@compiled
def _turn_hue(
    red: NDArray[np.float32], green: NDArray[np.float32], blue: NDArray[np.float32], sextants: np.float32
) -> None:
    """Turn the hue, and keep value and chroma. augment.shift_hue derives the formula."""
    for x in range(red.size):
        r, g, b = red[x], green[x], blue[x]
        value = max(max(r, g), b)
        chroma = value - min(min(r, g), b)
        along, base = r - g, _4
        if value == g:
            along, base = b - r, _2
        if value == r:
            along, base = g - b, _0
        hue = along / max(chroma, _1) + base + sextants
        hue = hue - _6 * np.floor(hue * np.float32(1 / 6))
        least = value - chroma + _HALF
        red[x] = _truncated(least + chroma * min(max(abs(hue - _3) - _1, _0), _1))
        green[x] = _truncated(least + chroma * min(max(_2 - abs(hue - _2), _0), _1))
        blue[x] = _truncated(least + chroma * min(max(_2 - abs(hue - _4), _0), _1))


@compiled
def _mix(
    red: NDArray[np.float32], green: NDArray[np.float32], blue: NDArray[np.float32], matrix: NDArray[np.float32]
) -> None:
    """Multiply each color by the matrix, rounded to nearest as in DALI."""
    for x in range(red.size):
        r, g, b = red[x], green[x], blue[x]
        red[x] = _truncated(matrix[0, 0] * r + matrix[0, 1] * g + matrix[0, 2] * b + _HALF)
        green[x] = _truncated(matrix[1, 0] * r + matrix[1, 1] * g + matrix[1, 2] * b + _HALF)
        blue[x] = _truncated(matrix[2, 0] * r + matrix[2, 1] * g + matrix[2, 2] * b + _HALF)


@compiled
def _sum_of_gray(row: NDArray[np.float32]) -> int:
    red, green, blue = row[0], row[1], row[2]
    total = np.int32(0)
    for x in range(red.size):
        total += _gray(red[x], green[x], blue[x])
    return total


@compiled
def _to_gray(row: NDArray[np.float32]) -> None:
    red, green, blue = row[0], row[1], row[2]
    for x in range(red.size):
        gray = np.float32(_gray(red[x], green[x], blue[x]))
        red[x] = gray
        green[x] = gray
        blue[x] = gray


@compiled
def blur_row(
    values: NDArray[np.float32], taps: NDArray[np.float32], padded: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Blur a row. Beyond the edges the row is mirrored, without repeating the outermost pixel."""
    size, radius = values.size, taps.size // 2
    padded[radius : radius + size] = values
    for x in range(1, radius + 1):
        padded[radius - x] = values[x]
        padded[radius + size - 1 + x] = values[size - 1 - x]
    scaled(out, values, taps[radius])
    for away in range(1, radius, 2):
        _add_four(
            out,
            padded[radius - away : radius - away + size],
            padded[radius + away : radius + away + size],
            taps[radius + away],
            padded[radius - away - 1 : radius - away - 1 + size],
            padded[radius + away + 1 : radius + away + 1 + size],
            taps[radius + away + 1],
        )
    if radius % 2:
        add_two(out, padded[:size], padded[2 * radius : 2 * radius + size], taps[0])


@compiled
def _blur_column(planes: NDArray[np.float32], y: int, taps: NDArray[np.float32], row: NDArray[np.float32]) -> None:
    radius = taps.size // 2
    out = row.reshape(row.size)
    scaled(out, _mirrored(planes, y), taps[radius])
    for away in range(1, radius, 2):
        _add_four(
            out,
            _mirrored(planes, y - away),
            _mirrored(planes, y + away),
            taps[radius + away],
            _mirrored(planes, y - away - 1),
            _mirrored(planes, y + away + 1),
            taps[radius + away + 1],
        )
    if radius % 2:
        add_two(out, _mirrored(planes, y - radius), _mirrored(planes, y + radius), taps[0])
    for x in range(out.size):
        out[x] = _truncated(out[x] + _HALF)


@compiled
def _mirrored(planes: NDArray[np.float32], y: int) -> NDArray[np.float32]:
    size = planes.shape[0]
    inside = abs(y)
    if inside >= size:
        inside = 2 * size - 2 - inside
    return planes[inside].reshape(planes[inside].size)


@compiled
def scaled(out: NDArray[np.float32], values: NDArray[np.float32], weight: np.float32) -> None:
    for x in range(out.size):
        out[x] = weight * values[x]


# The weights are symmetric, so the two pixels of one weight are added first. _add_four takes two weights at a time,
# because reading and writing `out` costs more than the arithmetic.


@compiled
def add_two(
    out: NDArray[np.float32], left: NDArray[np.float32], right: NDArray[np.float32], weight: np.float32
) -> None:
    for x in range(out.size):
        out[x] += weight * (left[x] + right[x])


@compiled
def _add_four(
    out: NDArray[np.float32],
    left: NDArray[np.float32],
    right: NDArray[np.float32],
    weight: np.float32,
    outer_left: NDArray[np.float32],
    outer_right: NDArray[np.float32],
    outer_weight: np.float32,
) -> None:
    for x in range(out.size):
        out[x] += weight * (left[x] + right[x]) + outer_weight * (outer_left[x] + outer_right[x])


@compiled
def _store(
    row: NDArray[np.float32],
    solarize: bool,
    scale: NDArray[np.float32],
    offset: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    if solarize:
        values = row.reshape(row.size)
        for x in range(values.size):
            values[x] = min(values[x], _255 - values[x])
    if out.shape[1] == 1 and row.shape[0] == 3:
        red, green, blue = row[0], row[1], row[2]
        for x in range(red.size):
            out[x, 0] = np.float32(_gray(red[x], green[x], blue[x])) * scale[0] + offset[0]
    elif out.shape[1] == 3:
        red, green, blue = row[0], row[1], row[2]
        for x in range(red.size):
            out[x, 0] = red[x] * scale[0] + offset[0]
            out[x, 1] = green[x] * scale[1] + offset[1]
            out[x, 2] = blue[x] * scale[2] + offset[2]
    else:
        for x in range(out.shape[0]):
            for channel in range(out.shape[1]):
                out[x, channel] = row[channel, x] * scale[channel] + offset[channel]
