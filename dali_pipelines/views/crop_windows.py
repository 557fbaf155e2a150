"""Compute the crop of a view from its random numbers, for the code that runs on the host."""

from __future__ import annotations

import math
from typing import NamedTuple

from dali_pipelines.views.draws import ViewDraws


class Window(NamedTuple):
    """A crop window, in whole pixels of the image."""

    top: int
    left: int
    height: int
    width: int


def crop_window(height: int, width: int, draws: ViewDraws, row: int, crop_ratio: tuple[float, float]) -> Window:
    """Return the crop of one sample by torchvision's rule.

    The crop is the first of ten tries that fits into the image, at a uniform position. If none fits, it is the largest
    centered crop whose aspect ratio is in range. augment.crop_window is the same rule in DALI's arithmetic.

    Args:
        height: Height of the image, in px.
        width: Width of the image, in px.
        draws: Random numbers of the batch.
        row: Position of the sample in the batch.
        crop_ratio: Range of the crop's width / height.

    Source:
        torchvision.transforms.RandomResizedCrop.get_params.
    """
    for area, ratio in zip(draws.crop_area[row].tolist(), draws.crop_ratio[row].tolist()):
        crop_w = round(math.sqrt(area * height * width * ratio))
        crop_h = round(math.sqrt(area * height * width / ratio))
        if 1 <= crop_w <= width and 1 <= crop_h <= height:
            down, right = draws.crop_position[row].tolist()
            return Window(int(down * (height - crop_h + 1)), int(right * (width - crop_w + 1)), crop_h, crop_w)
    low, high = crop_ratio
    crop_w = min(width, max(1, round(height * high)))
    crop_h = min(height, max(1, round(width / low)))
    return Window((height - crop_h) // 2, (width - crop_w) // 2, crop_h, crop_w)


def center_window(height: int, width: int, resize_px: int, size_px: int) -> tuple[tuple[int, int], Window]:
    """Return the size of the resized image, and its center crop, as torchvision's Resize and CenterCrop.

    Args:
        height: Height of the image, in px.
        width: Width of the image, in px.
        resize_px: Shorter side of the resized image, in px.
        size_px: Height and width of the center crop, in px.
    """
    shorter = min(height, width)
    resized = int(resize_px * height / shorter), int(resize_px * width / shorter)
    top, left = (round((side - size_px) / 2) for side in resized)
    return resized, Window(top, left, size_px, size_px)
