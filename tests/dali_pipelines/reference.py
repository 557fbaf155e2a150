"""The official transform, step by step, by PIL and torchvision, for given draws; and how far from it others are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from dali_pipelines.views.draws import COLOR_STEPS, ViewDraws
from dali_pipelines.views.params import ViewParams

ADJUST = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}
INTERPOLATION = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}

Images = list[NDArray[np.uint8]]
FACTORS = [0.6, 0.8, 1.0, 1.2, 1.4]
TURNS = [-0.1, -0.04, 0.02, 0.07, 0.1]
SIGMAS = [0.1, 0.5, 1.0, 1.5, 2.0]


def distance(ours: Images, theirs: list[Any]) -> tuple[float, int]:
    """Mean and largest difference in levels."""
    differences = [np.abs(a.astype(int) - np.asarray(b).astype(int)) for a, b in zip(ours, theirs)]
    assert all(difference.size for difference in differences)
    return float(np.mean([difference.mean() for difference in differences])), int(max(d.max() for d in differences))


def crop_window(
    height: int, width: int, draws: ViewDraws, row: int, ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params with its random numbers given: top, left, height, width."""
    v, h = draws.crop_position[row]
    for area, aspect in zip(draws.crop_area[row], draws.crop_ratio[row]):
        crop_w = round(math.sqrt(area * height * width * aspect))
        crop_h = round(math.sqrt(area * height * width / aspect))
        if 0 < crop_w <= width and 0 < crop_h <= height:
            return int(v * (height - crop_h + 1)), int(h * (width - crop_w + 1)), crop_h, crop_w
    if width / height < ratio[0]:
        crop_w, crop_h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        crop_w, crop_h = round(height * ratio[1]), height
    else:
        crop_w, crop_h = width, height
    return (height - crop_h) // 2, (width - crop_w) // 2, crop_h, crop_w


def hue_in_yiq(image: Image.Image, turns: float) -> NDArray[np.uint8]:
    """DALI's hue in float64, from the definition of YIQ by the FCC in 1953, to three digits."""
    angle = 2 * math.pi * turns
    rgb = np.asarray(image).astype(np.float64)
    luma = rgb @ [0.299, 0.587, 0.114]
    in_phase, quadrature = rgb @ [0.596, -0.274, -0.321], rgb @ [0.211, -0.523, 0.311]
    turned = (
        math.cos(angle) * in_phase + math.sin(angle) * quadrature,
        math.cos(angle) * quadrature - math.sin(angle) * in_phase,
    )
    back = np.linalg.inv([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
    return np.clip(np.floor(np.stack([luma, *turned], axis=2) @ back.T + 0.5), 0, 255).astype(np.uint8)


def view(image: Image.Image, draws: ViewDraws, row: int, params: ViewParams) -> NDArray[np.uint8]:
    """Return the view before its normalization, (size_px, size_px, 3) uint8."""
    window = crop_window(image.height, image.width, draws, row, params.crop_ratio)
    size = [params.size_px, params.size_px]
    x = F.resized_crop(image, *window, size, INTERPOLATION[params.interpolation])
    if draws.flip[row]:
        x = F.hflip(x)
    if draws.jitter[row]:
        for step in draws.color_order[row]:
            name = COLOR_STEPS[step]
            x = ADJUST[name](x, float(getattr(draws, name)[row]))
    if draws.gray[row]:
        x = x.convert("L").convert("RGB")
    if draws.blur[row]:
        x = x.filter(ImageFilter.GaussianBlur(float(draws.blur_sigma_px[row])))
    if draws.solarize[row]:
        x = ImageOps.solarize(x)
    return np.asarray(x)
