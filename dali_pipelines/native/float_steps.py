"""The steps of a view in float32, for images that are not RGB of 8 bits.

Colors are levels: real numbers from 0 to 255. No step rounds or truncates them, so a view keeps all of the image's
depth. A step only clamps what leaves the range. The formulas are those of the kernel for RGB of 8 bits.

All functions take and return contiguous planes, (C, S, S) float32. The steps may change the planes that they are given.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dali_pipelines.native import float_loops

# ITU-R 601, as PIL's mode L.
_LUMA = 0.299, 0.587, 0.114


def resized(pixels: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Return pixels as planes of another size, antialiased. What a bicubic filter overshoots is clamped.

    Args:
        pixels: Pixels, (H, W, C) uint8 or float32.
        size: Height and width of the planes, in px.
        interpolation: "bicubic" or "bilinear".
    """
    planes = pixels.permute(2, 0, 1).to(torch.float32).contiguous()
    return functional.interpolate(planes[None], size, mode=interpolation, antialias=True)[0].clamp_(0, 255)


def luma(planes: Tensor) -> Tensor:
    """Return ITU-R 601 gray, (1, S, S)."""
    red, green, blue = _LUMA
    gray = torch.mul(planes[0], red).add_(planes[1], alpha=green).add_(planes[2], alpha=blue)
    return gray.unsqueeze(0)


def adjust_brightness(planes: Tensor, factor: float) -> Tensor:
    """Blend with black."""
    return planes.mul_(factor).clamp_(0, 255)


def adjust_contrast(planes: Tensor, factor: float) -> Tensor:
    """Blend with the mean gray of the image. Each channel has its own mean if there are not three."""
    of = luma(planes) if len(planes) == 3 else planes
    mean = of.mean(dim=(1, 2), keepdim=True, dtype=torch.float64).to(torch.float32)
    return _blend(planes, mean, factor)


def adjust_saturation(planes: Tensor, factor: float) -> Tensor:
    """Blend each pixel of an RGB image with its gray."""
    return _blend(planes, luma(planes), factor)


def turn_hue(planes: Tensor, turns: float) -> Tensor:
    """Turn the hue of an RGB image in HSV, and keep value and chroma.

    Args:
        planes: Red, green and blue.
        turns: Shift in turns of the color wheel, in [-0.5, 0.5].
    """
    float_loops.turn_hue(planes.numpy(), np.float32(6 * turns))
    return planes


def mix(planes: Tensor, matrix: NDArray[np.float32]) -> Tensor:
    """Multiply each color of an RGB image by a matrix, (3, 3)."""
    red, green, blue = planes
    rows = [
        torch.mul(red, of_red).add_(green, alpha=of_green).add_(blue, alpha=of_blue)
        for of_red, of_green, of_blue in matrix.tolist()
    ]
    return torch.stack(rows).clamp_(0, 255)


def to_gray(planes: Tensor) -> Tensor:
    """Return the gray of an RGB image in three planes."""
    return luma(planes).repeat(3, 1, 1)


def blur(planes: Tensor, taps: NDArray[np.float32]) -> Tensor:
    """Blur rows, then columns. Beyond the edges the image is mirrored, without repeating the outermost pixel.

    Args:
        planes: Planes of any number of channels.
        taps: Symmetric weights, an odd number, at most 2 S - 1.
    """
    out = torch.empty_like(planes)
    float_loops.blur(planes.numpy(), taps, np.empty(planes.shape, np.float32), out.numpy())
    return out


def solarize(planes: Tensor) -> Tensor:
    """Invert values above the middle of the range, 127.5."""
    return torch.minimum(planes, 255 - planes)


def normalize(planes: Tensor, scale: NDArray[np.float32], offset: NDArray[np.float32]) -> Tensor:
    """Return value * scale + offset, with one scale and one offset for each channel.

    Args:
        planes: Planes. RGB becomes gray if there is only one scale.
        scale: Scales, (C,) or (1,).
        offset: Offsets, (C,) or (1,).
    """
    if len(planes) == 3 and len(scale) == 1:
        planes = luma(planes)
    # Two operations, because one that multiplies and adds would round only once, and Normalizer rounds twice.
    return planes.mul(torch.from_numpy(scale).view(-1, 1, 1)).add_(torch.from_numpy(offset).view(-1, 1, 1))


def _blend(planes: Tensor, toward: Tensor, factor: float) -> Tensor:
    return planes.mul_(factor).add_(toward, alpha=1 - factor).clamp_(0, 255)
