"""Views of images that are not RGB of 8 bits, from their definitions in float64. PIL resizes each channel in mode F."""

from __future__ import annotations

import colorsys
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dali_pipelines.views.draws import COLOR_STEPS, ViewDraws
from dali_pipelines.views.params import EvalParams, ViewParams
from tests.dali_pipelines.reference import crop_window

Levels = NDArray[np.float64]
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])


def view(image: NDArray[np.float32], draws: ViewDraws, row: int, params: ViewParams) -> Levels:
    """Return a view before its normalization, (S, S, C); or (S, S, 1) for params.channels = 1."""
    top, left, height, width = crop_window(*image.shape[:2], draws, row, params.crop_ratio)
    x = resized(image[top : top + height, left : left + width], (params.size_px, params.size_px), params.interpolation)
    x = x[:, ::-1] if draws.flip[row] else x
    x = x[::-1] if draws.flip_v[row] else x
    x = np.rot90(x, draws.quarter_turns[row])
    if draws.jitter[row]:
        for step in (COLOR_STEPS[number] for number in draws.color_order[row]):
            x = _color_step(x, step, float(getattr(draws, step)[row]), params.hue_space)
    if draws.gray[row] and x.shape[2] == 3:
        x = luma(x).repeat(3, axis=2)
    if draws.blur[row]:
        x = blurred(x, float(draws.blur_sigma_px[row]))
    if draws.solarize[row]:
        x = np.where(x > 127.5, 255 - x, x)
    return luma(x) if params.channels == 1 else x


def eval_view(image: NDArray[np.float32], params: EvalParams) -> Levels:
    """Return the evaluation view before its normalization, (S, S, C)."""
    height, width = image.shape[:2]
    size = tuple(int(params.resize_px * side / min(height, width)) for side in (height, width))
    top, left = (round((side - params.size_px) / 2) for side in size)
    x = resized(image, (size[0], size[1]), params.interpolation)
    return x[top : top + params.size_px, left : left + params.size_px]


def resized(image: NDArray[np.float32], size: tuple[int, int], interpolation: str) -> Levels:
    height, width = size
    channels = [Image.fromarray(np.ascontiguousarray(image[:, :, channel])) for channel in range(image.shape[2])]
    assert {channel.mode for channel in channels} == {"F"}
    planes = [np.asarray(channel.resize((width, height), _RESAMPLING[interpolation])) for channel in channels]
    return np.stack(planes, axis=2).astype(np.float64).clip(0, 255)


def luma(x: Levels) -> Levels:
    gray: Levels = x @ np.array([[0.299], [0.587], [0.114]])
    return gray


def _color_step(x: Levels, step: str, value: float, hue_space: str) -> Levels:
    if step == "brightness":
        changed = x * value
    elif step == "contrast":
        mean = luma(x).mean() if x.shape[2] == 3 else x.mean(axis=(0, 1))
        changed = mean + value * (x - mean)
    elif x.shape[2] != 3:
        return x
    elif step == "saturation":
        changed = luma(x) + value * (x - luma(x))
    elif hue_space == "yiq":
        angle = 2 * math.pi * value
        turn = [[1, 0, 0], [0, math.cos(angle), math.sin(angle)], [0, -math.sin(angle), math.cos(angle)]]
        changed = x @ (np.linalg.inv(_YIQ) @ turn @ _YIQ).T
    else:
        changed = np.array([_other_hue(*color, value) for color in x.reshape(-1, 3).tolist()]).reshape(x.shape)
    return changed.clip(0, 255)


def _other_hue(red: float, green: float, blue: float, turns: float) -> tuple[float, ...]:
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    return colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)


def blurred(x: Levels, sigma_px: float) -> Levels:
    radius = min(math.ceil(3 * sigma_px), len(x) - 1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        widths = [(0, 0)] * 3
        widths[axis] = (radius, radius)
        padded = np.pad(x, widths, mode="reflect")
        x = np.apply_along_axis(np.convolve, axis, padded, weights, mode="valid")
    return x
