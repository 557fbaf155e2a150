"""The augmentations. Each is a function from DALI node to DALI node, for CPU and GPU.

They follow PIL, including its rounding, because the official Barlow Twins transform uses PIL. Each color step truncates
to uint8, contrast uses the image's own mean gray, and hue turns in HSV. The measured distance of each augmentation to
PIL is in tests/dali_pipelines/dali/test_augment.py.

A DALI sample has no fixed shape. All shapes here are those of one sample. Images are (H, W, C) uint8 in layout HWC.
Random numbers are scalars on the CPU, or vectors where their shape is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from nvidia.dali import fn, math, types
from nvidia.dali.pipeline import DataNode, do_not_convert

from dali_pipelines.views.draws import CROP_TRIES
from dali_pipelines.views.params import EvalParams, ViewParams

INTERPOLATION = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}

# A plain Python integer would promote uint8 images to int32.
_BYTE_0 = types.Constant(np.uint8(0))
_BYTE_255 = types.Constant(np.uint8(255))


def cut(images: DataNode, start: DataNode, end: DataNode) -> DataNode:
    """Cut a window out of decoded images.

    The window is cut before the resize. As the resize's region of interest, it would differ from PIL by up to 34
    levels, because the filter then reads across the window's border.

    Args:
        images: Decoded images.
        start: Top left corner of the window, (2,) int32 px.
        end: Bottom right corner of the window, (2,) int32 px.
    """
    return fn.slice(images, start=start, end=end, axes=[0, 1])


def resize(window: DataNode, view: ViewParams, *, in_float: bool = False) -> DataNode:
    """Resize a window to the view's size, antialiased.

    Args:
        window: Window of the images, uint8 or float32.
        view: View, which has the size and the interpolation.
        in_float: Whether the output is float32, clamped to [0, 255], instead of the window's type.
    """
    return _resized(window, view.interpolation, in_float, size=[view.size_px, view.size_px])


def transpose(images: DataNode) -> DataNode:
    """Exchange rows and columns."""
    return fn.transpose(images, perm=[1, 0, 2], transpose_layout=False)


def flip_vertically(images: DataNode) -> DataNode:
    """Exchange top and bottom."""
    return fn.flip(images, horizontal=0, vertical=1)


def crop_window(
    shape: DataNode, area: DataNode, ratio: DataNode, position: DataNode, view: ViewParams
) -> tuple[DataNode, DataNode]:
    """Return the corners (top, left) and (bottom, right) of the crop by torchvision's rule, each (2,) int32 px.

    The crop is the first of ten tries that fits into the image, at a uniform position. If none fits, it is the largest
    centered crop whose aspect ratio is in range. The arithmetic is float64, so that the windows equal those that Python
    computes from the same random numbers.

    Args:
        shape: Height, width and channels of the image, (3,) integers.
        area: Area of each try as a fraction of the image's area, (10,) float64.
        ratio: Width / height of each try, (10,) float64.
        position: Fractions of the free space that are above and left of the window, (2,) float64 in [0, 1).
        view: View, which has the range of the aspect ratio.

    Source:
        torchvision.transforms.RandomResizedCrop.get_params.
    """
    height, width = (fn.cast(shape[axis], dtype=types.FLOAT64) for axis in (0, 1))
    tries_w = _round(math.sqrt(area * (height * width) * ratio))
    tries_h = _round(math.sqrt(area * (height * width) / ratio))
    fits = (tries_w >= 1) & (tries_w <= width) & (tries_h >= 1) & (tries_h <= height)
    precedence = fits * types.Constant(np.arange(CROP_TRIES, 0, -1, dtype=np.int32))
    first = fits & (precedence == fn.reductions.max(precedence))
    found = fn.reductions.max(precedence) > 0

    low, high = view.crop_ratio
    fallback_w = math.min(width, _round(height * high))
    fallback_h = math.min(height, _round(width / low))
    crop_w = fn.reductions.sum(tries_w * first) + fallback_w * (found == 0)
    crop_h = fn.reductions.sum(tries_h * first) + fallback_h * (found == 0)

    centred = (found == 0) * 0.5
    top = math.floor(position[0] * (height - crop_h + 1)) * found + math.floor((height - crop_h) * centred)
    left = math.floor(position[1] * (width - crop_w + 1)) * found + math.floor((width - crop_w) * centred)
    start = fn.cast(fn.stack(top, left), dtype=types.INT32)
    end = fn.cast(fn.stack(top + crop_h, left + crop_w), dtype=types.INT32)
    return start, end


def adjust_brightness(images: DataNode, factor: DataNode) -> DataNode:
    """Change the brightness as PIL's ImageEnhance.Brightness: blend with black."""
    return _to_uint8(images * beside(factor, images))


def adjust_contrast(images: DataNode, factor: DataNode) -> DataNode:
    """Change the contrast as PIL's ImageEnhance.Contrast: blend with the image's mean gray, rounded.

    DALI's own color_twist blends with 128 instead, which differs from PIL by up to 10 levels.
    """
    mean_gray = math.floor(fn.reductions.mean(luma(images)) + 0.5)
    factor = beside(factor, images)
    return _to_uint8(images * factor + mean_gray * (1.0 - factor))


def adjust_saturation(images: DataNode, factor: DataNode) -> DataNode:
    """Change the saturation as PIL's ImageEnhance.Color: blend with each pixel's gray."""
    factor = beside(factor, images)
    return _to_uint8(images * factor + luma(images) * (1.0 - factor))


def shift_hue(images: DataNode, turns: DataNode) -> DataNode:
    """Turn the hue in HSV and keep value and saturation, as torchvision's adjust_hue.

    DALI's own hue shift (rotate_hue) changes value and saturation too. Its result is further from PIL than an image
    without a hue shift. The formula here uses k = (n + hue in sextants) mod 6, with n = 5, 3, 1 for red, green, blue.
    Channel n is value - chroma * clamp(min(k, 4 - k), 0, 1).

    Args:
        images: RGB images.
        turns: Shift in turns of the color wheel, in [-0.5, 0.5].
    """
    return _to_uint8(turned_hue(images, turns, least_chroma=1.0, add=0.5))


def turned_hue(images: DataNode, turns: DataNode, *, least_chroma: float, add: float) -> DataNode:
    """Return images with another hue, not yet rounded or clamped.

    Args:
        images: RGB images.
        turns: Shift in turns of the color wheel, in [-0.5, 0.5].
        least_chroma: Smallest number that the hue is divided by, above 0. It replaces a smaller chroma.
        add: Number that is added to all values.
    """
    red, green, blue = (images[:, :, channel : channel + 1] * 1.0 for channel in range(3))
    value = math.max(math.max(red, green), blue)
    chroma = value - math.min(math.min(red, green), blue)
    is_red = value == red
    is_green = (value == green) & (value != red)
    is_blue = (value != red) & (value != green)
    # On a gray pixel chroma is 0 and the hue has no effect; the least chroma only avoids a division by zero.
    along = is_red * (green - blue) + is_green * (blue - red) + is_blue * (red - green)
    hue = along / math.max(chroma, least_chroma) + is_green * 2.0 + is_blue * 4.0 + beside(turns, images) * 6.0
    hue = hue - math.floor(hue * (1 / 6)) * 6.0
    red = chroma * math.clamp(math.abs(hue - 3.0) - 1.0, 0.0, 1.0)
    green = chroma * math.clamp(2.0 - math.abs(hue - 2.0), 0.0, 1.0)
    blue = chroma * math.clamp(2.0 - math.abs(hue - 4.0), 0.0, 1.0)
    return fn.cat(red, green, blue, axis=2) + (value - chroma + add)


def rotate_hue(images: DataNode, turns: DataNode) -> DataNode:
    """Turn the hue in YIQ with DALI's own operator: a matrix on RGB, rounded.

    Args:
        images: RGB images.
        turns: Shift in turns of the color wheel, in [-0.5, 0.5].
    """
    return fn.hue(images, hue=turns * 360.0)


def luma(images: DataNode) -> DataNode:
    """Return ITU-R 601 gray, (H, W, 1) uint8, as PIL's mode L."""
    return fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)


def to_gray(images: DataNode) -> DataNode:
    """Return ITU-R 601 gray in three channels."""
    # `| 0` with the image's shape broadcasts the one channel, in half the time of a concatenation.
    return luma(images) | (images & _BYTE_0)


def gaussian_blur(images: DataNode, sigma_px: DataNode) -> DataNode:
    """Blur with a true Gaussian over 2 ceil(3 sigma) + 1 pixels. PIL approximates a Gaussian with boxes."""
    return fn.gaussian_blur(images, sigma=sigma_px)


def solarize(images: DataNode) -> DataNode:
    """Invert values of 128 and above, as PIL's ImageOps.solarize. From 128, 255 - x = x ^ 255 is less than x."""
    return math.min(images, images ^ _BYTE_255)


def normalize(
    images: DataNode, params: ViewParams | EvalParams, mirror: DataNode | int = 0, float16: bool = False
) -> DataNode:
    """Normalize the images to floating point, and flip them horizontally. The flip commutes with all earlier steps.

    Args:
        images: RGB images, or images with the channels of params.
        params: View, which has the channels, mean and std.
        mirror: Flip, 1 or 0.
        float16: Whether the output is float16 instead of float32.
    """
    return normalize_channels(luma(images) if params.channels == 1 else images, params, mirror, float16)


def normalize_channels(
    images: DataNode, params: ViewParams | EvalParams, mirror: DataNode | int, float16: bool
) -> DataNode:
    """Normalize images that have the channels of params already. Arguments are those of `normalize`."""
    mean, std = np.array(params.mean, dtype=float), np.array(params.std, dtype=float)
    if params.channels == 1:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    dtype = types.FLOAT16 if float16 else types.FLOAT
    return fn.crop_mirror_normalize(
        images, mirror=mirror, mean=255 * mean, std=255 * std, dtype=dtype, output_layout="HWC"
    )


def resize_center_crop(images: DataNode, shape: DataNode, params: EvalParams, *, in_float: bool = False) -> DataNode:
    """Resize and center-crop exactly as torchvision's Resize(resize_px) and CenterCrop(size_px).

    DALI's own resize_shorter and centered crop round differently, and would be one pixel off.

    Args:
        images: Decoded images.
        shape: Height, width and channels of the image, (3,) integers.
        params: View, which has both sizes.
        in_float: Whether the output is float32, as for `resize`.
    """
    sides = [fn.cast(shape[axis], dtype=types.FLOAT64) for axis in (0, 1)]
    shorter = math.min(*sides)
    resized = [math.floor(float(params.resize_px) * side / shorter) for side in sides]
    starts = [_half(side - params.size_px) for side in resized]
    height, width = (fn.cast(side, dtype=types.FLOAT) for side in resized)
    images = _resized(images, params.interpolation, in_float, resize_y=height, resize_x=width)
    start = fn.cast(fn.stack(*starts), dtype=types.INT32)
    return fn.slice(images, start=start, shape=[params.size_px, params.size_px], axes=[0, 1])


def clamped(images: DataNode) -> DataNode:
    """Return images of float32 with their values clamped to [0, 255]."""
    return math.clamp(images, 0.0, 255.0)


@do_not_convert
def beside(scalar: DataNode, images: DataNode) -> DataNode:
    """Move the scalar to the device of the images, because arithmetic needs both on one device."""
    return scalar.gpu() if images.device == "gpu" else scalar


def _resized(images: DataNode, interpolation: str, in_float: bool, **size: Any) -> DataNode:
    interp_type = INTERPOLATION[interpolation]
    if in_float:
        # A bicubic filter overshoots.
        return clamped(fn.resize(images, interp_type=interp_type, antialias=True, dtype=types.FLOAT, **size))
    return fn.resize(images, interp_type=interp_type, antialias=True, **size)


def _half(node: DataNode) -> DataNode:
    """Return half of a whole number, rounded to even as Python's round."""
    half = math.floor(node * 0.5)
    is_odd_half = half - math.floor(half * 0.5) * 2.0
    return half + (node - half * 2.0) * is_odd_half


def _round(node: DataNode) -> DataNode:
    return fn.cast(math.floor(node + 0.5), dtype=types.INT32)


def _to_uint8(node: DataNode) -> DataNode:
    """Truncate to whole numbers in [0, 255], as PIL's blend.

    brightness_contrast is DALI's only vectorized conversion from float. On a CPU it takes 0.6 ms for a 224 px view;
    floor and cast take 2.5 ms. It rounds to nearest, so the values are first shifted by just under a half.
    """
    # The unit of brightness_shift is the range of the output type.
    return fn.brightness_contrast(node, brightness_shift=-0.4999 / 255, contrast_center=0.0, dtype=types.UINT8)
