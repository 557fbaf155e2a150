"""Which part of an image a view shows: arithmetic on the draws, for implementations that run on the host."""

from __future__ import annotations

import math
from typing import NamedTuple

from dali_pipelines.views.draws import ViewDraws


class Window(NamedTuple):
    """In whole pixels of the image."""

    top: int
    left: int
    height: int
    width: int


def crop_window(height: int, width: int, draws: ViewDraws, row: int, crop_ratio: tuple[float, float]) -> Window:
    """The crop of one sample by torchvision's rule.

    The first of ten tries that fits into the image, at a uniform position; where none fits, the largest
    centred crop whose aspect ratio is in range. augment.crop_window is the same in DALI's arithmetic.

    Args:
        height: Of the image, in pixels.
        width: Of the image.
        draws: Of the batch.
        row: Of the sample in the batch.
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
    """torchvision's Resize(resize_px) and CenterCrop(size_px): the resized image's size, and the crop of it."""
    shorter = min(height, width)
    resized = int(resize_px * height / shorter), int(resize_px * width / shorter)
    top, left = (round((side - size_px) / 2) for side in resized)
    return resized, Window(top, left, size_px, size_px)
