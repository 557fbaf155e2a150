"""Crop and resize images that are already on the device, as PIL does, by two batched matrix products.

An antialiased resize is linear along each axis. A row of weights says how much each pixel of the image adds to a pixel
of the view. So each sample has two small matrices of weights, and all crops of a batch are resized at once. PIL rounds
to whole numbers after each axis, horizontal first, and so does this.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Reach of each filter at scale 1, in px, and the parameter of the bicubic: PIL's src/libImaging/Resample.c.
_REACH = {"bilinear": 1.0, "bicubic": 2.0}
_A = -0.5


def resized_crops(images: Tensor, windows: Tensor, *, size_px: int, interpolation: str) -> Tensor:
    """Return the crops of images, resized to squares. The host waits for nothing.

    Args:
        images: The images, each at least as large as its window.
        windows: Top, left, height and width of each crop, in px, on the device of the images.
        size_px: Height and width of the output, in px.
        interpolation: "bicubic" or "bilinear", both antialiased.

    Shape:
        - images: (n, H, W, C) uint8.
        - windows: (n, 4) int64.
        - Output: (n, size_px, size_px, C) uint8, contiguous, on the device of the images.
    """
    height, width = images.shape[1:3]
    top, left, crop_height, crop_width = windows.unbind(dim=1)
    options = {"size_px": size_px, "interpolation": interpolation}
    down = resize_weights(top, crop_height, pixels=height, **options)  # type: ignore[arg-type]
    right = resize_weights(left, crop_width, pixels=width, **options)  # type: ignore[arg-type]
    # (n, 1, S, W) @ (n, H, W, C) and then (n, S, H) @ (n, H, S * C). In float64 neither TF32 nor autocast interferes.
    rows = _rounded(torch.matmul(right[:, None], images.double()))
    crops = _rounded(torch.matmul(down, rows.flatten(start_dim=2))).to(torch.uint8)
    return crops.view(len(images), size_px, size_px, -1)


def resize_weights(starts: Tensor, lengths: Tensor, *, pixels: int, size_px: int, interpolation: str) -> Tensor:
    """Return the weights of a resize along one axis, for windows that are resized to one size.

    Args:
        starts: First pixel of each window.
        lengths: Number of pixels of each window, 1 or more.
        pixels: Number of pixels of the images along the axis.
        size_px: Number of pixels of the output.
        interpolation: "bicubic" or "bilinear".

    Shape:
        - starts, lengths: (n,) int64.
        - Output: (n, size_px, pixels) float64. Each row adds up to 1, and is 0 outside of its window.

    Source:
        PIL's src/libImaging/Resample.c, precompute_coeffs.
    """
    scale = lengths.double()[:, None, None] / size_px
    stretch = scale.clamp(min=1.0)
    reach = _REACH[interpolation] * stretch
    centers = (torch.arange(size_px, device=starts.device, dtype=torch.float64)[:, None] + 0.5) * scale
    # PIL cuts the filter off at whole pixels, and at the border of the crop.
    first = (centers - reach + 0.5).trunc().clamp(min=0)
    end = (centers + reach + 0.5).trunc().minimum(lengths.double()[:, None, None])
    at = torch.arange(pixels, device=starts.device, dtype=torch.float64) - starts[:, None, None]
    weights = _filter((at - centers + 0.5) / stretch, interpolation)
    weights = weights.where((at >= first) & (at < end), 0)
    return weights / weights.sum(dim=-1, keepdim=True)


def _filter(x: Tensor, interpolation: str) -> Tensor:
    """Return the filter's value at a distance from its center."""
    x = x.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _rounded(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)
