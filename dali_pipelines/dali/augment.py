"""The augmentations, each a function from DALI node to DALI node, on CPU and GPU alike.

They follow PIL to the rounding, because the official Barlow Twins transform is PIL: colour steps
truncate to uint8 one by one, contrast pivots on the image's own mean gray, hue turns in HSV.
tests/dali_pipelines/dali/test_augment.py holds the measured distance of each to PIL.

A DALI sample has no fixed shape; the shapes below are those of one sample: images are (H, W, C) uint8
in layout HWC, the draws are scalars (or vectors where it is said) that live on the CPU.
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


def decode(encoded: DataNode, device: str, hw_decoder_load: float) -> DataNode:
    """RGB pixels of an encoded image; EXIF orientation is ignored, as PIL and torchvision do."""
    return fn.decoders.image(encoded, output_type=types.RGB, **_decoding(device, hw_decoder_load))


def decode_window(encoded: DataNode, start: DataNode, end: DataNode, device: str, hw_decoder_load: float) -> DataNode:
    """Those of a part of an image, for which not all of it need be decoded."""
    return fn.decoders.image_slice(
        encoded, start=start, end=end, axes=[0, 1], output_type=types.RGB, **_decoding(device, hw_decoder_load)
    )


@do_not_convert
def _decoding(device: str, hw_decoder_load: float) -> dict[str, Any]:
    if device == "cpu":
        return {"adjust_orientation": False}
    # Without fancy upsampling nvJPEG repeats chroma pixels where libjpeg-turbo interpolates them.
    options = {"jpeg_fancy_upsampling": True, "hw_decoder_load": hw_decoder_load}
    return {"device": "mixed", "adjust_orientation": False, **options}


def cut(images: DataNode, start: DataNode, end: DataNode) -> DataNode:
    """A window of decoded images.

    It is cut out before the resize: given as the resize's region of interest, the filter reads
    across its border, up to 34 levels from PIL.
    """
    return fn.slice(images, start=start, end=end, axes=[0, 1])


def resize(window: DataNode, view: ViewParams) -> DataNode:
    """To the view's size."""
    size = [view.size_px, view.size_px]
    return fn.resize(window, size=size, interp_type=INTERPOLATION[view.interpolation], antialias=True)


def crop_window(
    shape: DataNode, area: DataNode, ratio: DataNode, position: DataNode, view: ViewParams
) -> tuple[DataNode, DataNode]:
    """The corners (top, left) and (bottom, right) of the crop, in whole pixels.

    torchvision's rule: the first of ten tries that fits into the image, at a uniform position; where
    none fits, the largest centred crop whose aspect ratio is in range. Computed in float64, so that
    the windows equal those of the same draws in Python.

    Args:
        shape: (3,) integers, height, width and channels of the image.
        area: (10,) float64, the tries' areas as fractions of the image's.
        ratio: (10,) float64, the tries' width / height.
        position: (2,) float64 in [0, 1), of the window's free space above and to the left.
        view: For the range of the aspect ratio.

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
    """PIL's ImageEnhance.Brightness: a blend with black."""
    return _to_uint8(images * _beside(factor, images))


def adjust_contrast(images: DataNode, factor: DataNode) -> DataNode:
    """PIL's ImageEnhance.Contrast: a blend with the image's mean gray, rounded.

    DALI's own color_twist pivots on 128, up to 10 levels away.
    """
    mean_gray = math.floor(fn.reductions.mean(luma(images)) + 0.5)
    factor = _beside(factor, images)
    return _to_uint8(images * factor + mean_gray * (1.0 - factor))


def adjust_saturation(images: DataNode, factor: DataNode) -> DataNode:
    """PIL's ImageEnhance.Color: a blend with each pixel's gray."""
    factor = _beside(factor, images)
    return _to_uint8(images * factor + luma(images) * (1.0 - factor))


def shift_hue(images: DataNode, turns: DataNode) -> DataNode:
    """Turns the hue in HSV and keeps value and saturation, as torchvision's adjust_hue.

    DALI's own way (rotate_hue) moves value and saturation too: further from PIL than not doing
    anything. Written with k = (n + hue in sextants) mod 6: channel n is
    value - chroma * clamp(min(k, 4 - k), 0, 1), n = 5, 3, 1 for red, green, blue.

    Args:
        images: The images.
        turns: Shift in turns of the colour wheel, in [-0.5, 0.5].
    """
    red, green, blue = (images[:, :, channel : channel + 1] * 1.0 for channel in range(3))
    value = math.max(math.max(red, green), blue)
    chroma = value - math.min(math.min(red, green), blue)
    is_red = value == red
    is_green = (value == green) & (value != red)
    is_blue = (value != red) & (value != green)
    # On a gray pixel chroma is 0 and the hue has no effect; the 1 only avoids a division by zero.
    along = is_red * (green - blue) + is_green * (blue - red) + is_blue * (red - green)
    hue = along / math.max(chroma, 1.0) + is_green * 2.0 + is_blue * 4.0 + _beside(turns, images) * 6.0
    hue = hue - math.floor(hue * (1 / 6)) * 6.0
    red = chroma * math.clamp(math.abs(hue - 3.0) - 1.0, 0.0, 1.0)
    green = chroma * math.clamp(2.0 - math.abs(hue - 2.0), 0.0, 1.0)
    blue = chroma * math.clamp(2.0 - math.abs(hue - 4.0), 0.0, 1.0)
    return _to_uint8(fn.cat(red, green, blue, axis=2) + (value - chroma + 0.5))


def rotate_hue(images: DataNode, turns: DataNode) -> DataNode:
    """Turns the hue in YIQ, DALI's own way: a matrix on RGB, rounded."""
    return fn.hue(images, hue=turns * 360.0)


def luma(images: DataNode) -> DataNode:
    """ITU-R 601 gray, (H, W, 1) uint8: PIL's mode L."""
    return fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)


def to_gray(images: DataNode) -> DataNode:
    """Gray in three channels."""
    # `| 0` of the image's own shape broadcasts the one channel; half the time of a concatenation.
    return luma(images) | (images & _BYTE_0)


def gaussian_blur(images: DataNode, sigma_px: DataNode) -> DataNode:
    """A true Gaussian over 2 ceil(3 sigma) + 1 pixels; PIL approximates one by boxes."""
    return fn.gaussian_blur(images, sigma=sigma_px)


def solarize(images: DataNode) -> DataNode:
    """PIL's ImageOps.solarize at threshold 128: 255 - x = x ^ 255 is the smaller one from 128 on."""
    return math.min(images, images ^ _BYTE_255)


def normalize(
    images: DataNode, params: ViewParams | EvalParams, mirror: DataNode | int = 0, float16: bool = False
) -> DataNode:
    """The normalised range in floating point, and the horizontal flip, which commutes with all that came before."""
    mean, std = np.array(params.mean, dtype=float), np.array(params.std, dtype=float)
    if params.channels == 1:
        images, mean, std = luma(images), mean.mean(keepdims=True), std.mean(keepdims=True)
    dtype = types.FLOAT16 if float16 else types.FLOAT
    return fn.crop_mirror_normalize(
        images, mirror=mirror, mean=255 * mean, std=255 * std, dtype=dtype, output_layout="HWC"
    )


def resize_center_crop(images: DataNode, shape: DataNode, params: EvalParams) -> DataNode:
    """torchvision's Resize(resize_px) and CenterCrop(size_px), to the pixel.

    DALI's own resize_shorter and centred crop round sizes and halves otherwise: one pixel off.

    Args:
        images: The images.
        shape: (3,) integers, height, width and channels of the image.
        params: For both sizes.
    """
    sides = [fn.cast(shape[axis], dtype=types.FLOAT64) for axis in (0, 1)]
    shorter = math.min(*sides)
    resized = [math.floor(float(params.resize_px) * side / shorter) for side in sides]
    starts = [_half(side - params.size_px) for side in resized]
    height, width = (fn.cast(side, dtype=types.FLOAT) for side in resized)
    interp_type = INTERPOLATION[params.interpolation]
    images = fn.resize(images, resize_y=height, resize_x=width, interp_type=interp_type, antialias=True)
    start = fn.cast(fn.stack(*starts), dtype=types.INT32)
    return fn.slice(images, start=start, shape=[params.size_px, params.size_px], axes=[0, 1])


def _half(node: DataNode) -> DataNode:
    """Half of a whole number, rounded to even as Python's round."""
    half = math.floor(node * 0.5)
    is_odd_half = half - math.floor(half * 0.5) * 2.0
    return half + (node - half * 2.0) * is_odd_half


def _round(node: DataNode) -> DataNode:
    return fn.cast(math.floor(node + 0.5), dtype=types.INT32)


def _to_uint8(node: DataNode) -> DataNode:
    """Truncates to [0, 255] as PIL's blend does.

    brightness_contrast is DALI's one vectorised conversion from float: on CPU 0.6 ms for a 224 px
    view, where floor and cast take 2.5. It rounds to nearest, hence the shift by just under a half.
    """
    # The shift counts in ranges of the output type.
    return fn.brightness_contrast(node, brightness_shift=-0.4999 / 255, contrast_center=0.0, dtype=types.UINT8)


@do_not_convert
def _beside(scalar: DataNode, images: DataNode) -> DataNode:
    """The scalar on the device of the images, which arithmetic needs."""
    return scalar.gpu() if images.device == "gpu" else scalar
