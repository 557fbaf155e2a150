"""The loops of the steps in float32 that would need many passes over an image in torch: the hue and the blur.

numba compiles them as it compiles the kernel. Each inner loop runs over one contiguous row of one channel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.native.compiled import compiled
from dali_pipelines.native.kernel import add_two, blur_row, scaled

_0, _1, _2, _3, _4, _6 = (np.float32(number) for number in (0, 1, 2, 3, 4, 6))
_255 = np.float32(255)
# The hue of a pixel with less chroma, in levels, has no effect. This only avoids a division by zero.
_LEAST_CHROMA = np.float32(1e-6)


@compiled
def turn_hue(planes: NDArray[np.float32], sextants: np.float32) -> None:
    """Turn the hue in place, and keep value and chroma. augment.shift_hue derives the formula.

    Args:
        planes: Red, green and blue, (3, S, S).
        sextants: Shift in sextants of the color wheel, in [-3, 3].
    """
    for y in range(planes.shape[1]):
        red, green, blue = planes[0, y], planes[1, y], planes[2, y]
        for x in range(red.size):
            r, g, b = red[x], green[x], blue[x]
            value = max(max(r, g), b)
            least = min(min(r, g), b)
            chroma = value - least
            along, base = r - g, _4
            if value == g:
                along, base = b - r, _2
            if value == r:
                along, base = g - b, _0
            hue = along / max(chroma, _LEAST_CHROMA) + base + sextants
            hue = hue - _6 * np.floor(hue * np.float32(1 / 6))
            red[x] = min(least + chroma * min(max(abs(hue - _3) - _1, _0), _1), _255)
            green[x] = min(least + chroma * min(max(_2 - abs(hue - _2), _0), _1), _255)
            blue[x] = min(least + chroma * min(max(_2 - abs(hue - _4), _0), _1), _255)


@compiled
def blur(
    planes: NDArray[np.float32], taps: NDArray[np.float32], by_rows: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Blur rows, then columns. Beyond the edges the image is mirrored, without repeating the outermost pixel.

    Args:
        planes: Planes of any number of channels, (C, S, S).
        taps: Symmetric weights, an odd number, at most 2 S - 1.
        by_rows: Working memory, (C, S, S).
        out: Output, (C, S, S).
    """
    size, radius = planes.shape[1], taps.size // 2
    padded = np.empty(size + 2 * radius, np.float32)
    for channel in range(planes.shape[0]):
        for y in range(size):
            blur_row(planes[channel, y], taps, padded, by_rows[channel, y])
        for y in range(size):
            scaled(out[channel, y], by_rows[channel, y], taps[radius])
            for away in range(1, radius + 1):
                above, below = abs(y - away), (size - 1) - abs(size - 1 - y - away)
                add_two(out[channel, y], by_rows[channel, above], by_rows[channel, below], taps[radius + away])
