"""Compute on a GPU what follows a view's resize, by four Triton kernels. The result is the native kernel's, bit by bit.

| kernel | work | reads | writes |
|---|---|---|---|
| `sum_luma` | color steps before the contrast, and their sum of luma | pixels | one int32 a tile |
| `change_colors` | color steps in their order, gray | pixels | colored pixels |
| `blur_rows` | flip, blur along rows | pixels | float32 scratch |
| `write_views` | blur along columns (or flip), solarization, normalization | scratch or pixels | views |

The grid of every kernel is (tiles, samples). A sample that does not need a kernel costs it one or two numbers of the
table. The pixels that DALI hands over are only read: changed colors have memory of their own.

Exactness needs three things. Kernels are launched with enable_fp_fusion=False, because a fused multiply-add rounds
once instead of twice. Divisions are div_rn, because `/` is approximate on a GPU. Sums of luma are integers, so their
order does not matter.

Arguments of all kernels:

- pixels: Crops after their resize, (n, size, size, channels) uint8.
- colored: Memory for crops after their color steps, of the same shape. Samples without color steps are not in it.
- table: Table of the view (dali_pipelines/gpu/table.py).
- size, channels, width: Height and width of the view; channels of the pixels; columns of the table.
- in_yiq: Whether the hue step is a matrix, as DALI's own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dali_pipelines.gpu import table as columns
from dali_pipelines.gpu.colors import apply_steps, level, luma, whole

# A kernel may use only such constants of its module.
_STEP_COUNT, _CONTRAST_AT = tl.constexpr(columns.STEP_COUNT), tl.constexpr(columns.CONTRAST_AT)
_GRAY, _SOLARIZE = tl.constexpr(columns.GRAY), tl.constexpr(columns.SOLARIZE)
_FLIP, _RADIUS, _TAPS = tl.constexpr(columns.FLIP), tl.constexpr(columns.RADIUS), tl.constexpr(columns.TAPS)


@triton.jit
def sum_luma(
    pixels,
    table,
    sums,
    size: tl.constexpr,
    width: tl.constexpr,
    tiles: tl.constexpr,
    in_yiq: tl.constexpr,
    block: tl.constexpr,
):
    """Write the sum of luma of each tile before its contrast step to sums, (n, tiles) int32."""
    tile, sample = tl.program_id(0), tl.program_id(1)
    row = table + sample * width
    contrast_at = whole(row + _CONTRAST_AT)
    if contrast_at < whole(row + _STEP_COUNT):
        place, inside = _color_tile(tile, sample, size, block)
        red, green, blue = _load_colors(pixels + place, inside)
        red, green, blue = apply_steps(red, green, blue, row, contrast_at, 0.0, in_yiq)
        lumas = tl.where(inside, luma(red, green, blue).to(tl.int32), 0)
        tl.store(sums + sample * tiles + tile, tl.sum(lumas, axis=0))


@triton.jit
def change_colors(
    pixels,
    colored,
    table,
    sums,
    size: tl.constexpr,
    width: tl.constexpr,
    tiles: tl.constexpr,
    padded_tiles: tl.constexpr,
    in_yiq: tl.constexpr,
    block: tl.constexpr,
):
    """Write the crops after color steps and gray to colored. padded_tiles is the next power of 2 of tiles."""
    tile, sample = tl.program_id(0), tl.program_id(1)
    row = table + sample * width
    if _is_colored(row):
        step_count = whole(row + _STEP_COUNT)
        mean_luma = 0.0
        if whole(row + _CONTRAST_AT) < step_count:
            parts = tl.arange(0, padded_tiles)
            total = tl.sum(tl.load(sums + sample * tiles + parts, mask=parts < tiles, other=0), axis=0)
            # floor(mean + 1 / 2) in whole numbers. None is negative, and all are below 2**31 up to 2048 px.
            mean_luma = ((2 * total + size * size) // (2 * size * size)).to(tl.float32)
        place, inside = _color_tile(tile, sample, size, block)
        red, green, blue = _load_colors(pixels + place, inside)
        red, green, blue = apply_steps(red, green, blue, row, step_count, mean_luma, in_yiq)
        if whole(row + _GRAY) != 0:
            red = luma(red, green, blue)
            green, blue = red, red
        tl.store(colored + place, red.to(tl.uint8), mask=inside)
        tl.store(colored + place + 1, green.to(tl.uint8), mask=inside)
        tl.store(colored + place + 2, blue.to(tl.uint8), mask=inside)


@triton.jit
def blur_rows(
    pixels,
    colored,
    table,
    scratch,
    size: tl.constexpr,
    channels: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """Write the crops, flipped and blurred along their rows, to scratch, which has their shape in float32.

    The flip commutes with the blur, because its weights are symmetric.
    """
    tile, sample = tl.program_id(0), tl.program_id(1)
    row = table + sample * width
    radius = whole(row + _RADIUS)
    if radius > 0:
        at = tile * block + tl.arange(0, block)
        inside = at < size * size * channels
        in_line = at % (size * channels)
        x = in_line // channels
        x = tl.where(whole(row + _FLIP) != 0, size - 1 - x, x)
        # The first pixel of each value's line, in the value's channel.
        line = _source(pixels, colored, row, sample, size, channels) + (at - in_line + in_line % channels)
        value = tl.load(row + _TAPS) * tl.load(line + x * channels, mask=inside, other=0).to(tl.float32)
        for away in range(1, radius, 2):
            near = _byte_pair(line, x, away, inside, size, channels)
            far = _byte_pair(line, x, away + 1, inside, size, channels)
            value += tl.load(row + _TAPS + away) * near + tl.load(row + _TAPS + away + 1) * far
        if radius % 2 == 1:
            value += tl.load(row + _TAPS + radius) * _byte_pair(line, x, radius, inside, size, channels)
        tl.store(scratch + sample.to(tl.int64) * (size * size * channels) + at, value, mask=inside)


@triton.jit
def write_views(
    pixels,
    colored,
    table,
    scratch,
    views,
    size: tl.constexpr,
    channels: tl.constexpr,
    view_channels: tl.constexpr,
    width: tl.constexpr,
    lines: tl.constexpr,
    values: tl.constexpr,
):
    """Write the views, (n, size, size, view_channels). A tile has some lines, and some values of each line."""
    tile, sample = tl.program_id(0), tl.program_id(1)
    row = table + sample * width
    across: tl.constexpr = (size * view_channels + values - 1) // values
    y = (tile // across) * lines + tl.arange(0, lines)[:, None]
    at = (tile % across) * values + tl.arange(0, values)[None, :]
    inside = (y < size) & (at < size * view_channels)
    source = _source(pixels, colored, row, sample, size, channels)
    blurred = scratch + sample.to(tl.int64) * (size * size * channels)
    channel = at % view_channels
    if view_channels == channels:
        value = _finished(source, blurred, row, y, at, at // channels, channel, inside, size, channels)
    else:
        red = _finished(source, blurred, row, y, at * 3, at, 0, inside, size, channels)
        green = _finished(source, blurred, row, y, at * 3 + 1, at, 1, inside, size, channels)
        blue = _finished(source, blurred, row, y, at * 3 + 2, at, 2, inside, size, channels)
        value = luma(red, green, blue)
    scale = table + tl.num_programs(1) * width + channel
    value = value * tl.load(scale) + tl.load(scale + view_channels)
    start = sample.to(tl.int64) * (size * size * view_channels)
    tl.store(views + start + y * (size * view_channels) + at, value.to(views.dtype.element_ty), mask=inside)


@triton.jit
def _finished(source, blurred, row, y, in_line, x, channel, inside, size: tl.constexpr, channels: tl.constexpr):
    """Return a tile of values after blur and solarization.

    in_line is x * channels + channel. It is an argument of its own, because the compiler must see that it is
    contiguous. Otherwise it reads the scratch one value at a time.
    """
    radius = whole(row + _RADIUS)
    if radius == 0:
        from_x = tl.where(whole(row + _FLIP) != 0, size - 1 - x, x)
        at = y * (size * channels) + from_x * channels + channel
        value = tl.load(source + at, mask=inside, other=0).to(tl.float32)
    else:
        column = blurred + in_line
        value = tl.load(row + _TAPS) * tl.load(column + y * (size * channels), mask=inside, other=0.0)
        for away in range(1, radius, 2):
            near = _line_pair(column, y, away, inside, size, channels)
            far = _line_pair(column, y, away + 1, inside, size, channels)
            value += tl.load(row + _TAPS + away) * near + tl.load(row + _TAPS + away + 1) * far
        if radius % 2 == 1:
            value += tl.load(row + _TAPS + radius) * _line_pair(column, y, radius, inside, size, channels)
        value = level(value + 0.5)
    if whole(row + _SOLARIZE) != 0:
        value = tl.minimum(value, 255.0 - value)
    return value


@triton.jit
def _is_colored(row):
    return (whole(row + _STEP_COUNT) != 0) | (whole(row + _GRAY) != 0)


@triton.jit
def _source(pixels, colored, row, sample, size: tl.constexpr, channels: tl.constexpr):
    """Return where the sample's pixels are after its color steps."""
    # int32 would overflow after 14,266 views of 224 px.
    start = sample.to(tl.int64) * (size * size * channels)
    return tl.where(_is_colored(row), colored, pixels) + start


@triton.jit
def _color_tile(tile, sample, size: tl.constexpr, block: tl.constexpr):
    """Return where the reds of a tile are, and which of them are inside the image."""
    at = tile * block + tl.arange(0, block)
    return sample.to(tl.int64) * (size * size * 3) + at * 3, at < size * size


@triton.jit
def _load_colors(place, inside):
    red = tl.load(place, mask=inside, other=0).to(tl.float32)
    green = tl.load(place + 1, mask=inside, other=0).to(tl.float32)
    blue = tl.load(place + 2, mask=inside, other=0).to(tl.float32)
    return red, green, blue


# Beyond the edges an image is mirrored, without repeating the outermost pixel. A radius is below the size, so a
# neighbor crosses at most one edge.


@triton.jit
def _before(at, away):
    return tl.abs(at - away)


@triton.jit
def _after(at, away, size: tl.constexpr):
    return tl.minimum(at + away, 2 * size - 2 - at - away)


@triton.jit
def _byte_pair(line, x, away, inside, size: tl.constexpr, channels: tl.constexpr):
    """Return the sum of two neighbors in a line. They are added as whole numbers, which saves a conversion."""
    left = tl.load(line + _before(x, away) * channels, mask=inside, other=0).to(tl.int32)
    right = tl.load(line + _after(x, away, size) * channels, mask=inside, other=0).to(tl.int32)
    return (left + right).to(tl.float32)


@triton.jit
def _line_pair(column, y, away, inside, size: tl.constexpr, channels: tl.constexpr):
    """Return the sum of two neighbors in a column."""
    above = tl.load(column + _before(y, away) * (size * channels), mask=inside, other=0.0)
    below = tl.load(column + _after(y, away, size) * (size * channels), mask=inside, other=0.0)
    return above + below
