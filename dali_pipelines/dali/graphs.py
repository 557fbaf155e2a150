"""The DALI graphs, from encoded files to normalized views."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import simplejpeg
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import DataNode

from dali_pipelines.dali import augment, decoders, deep_images, float_steps
from dali_pipelines.dali.deep_images import Deep
from dali_pipelines.sources.base import Kind
from dali_pipelines.views.draws import COLOR_STEPS, ViewDraws, active_steps
from dali_pipelines.views.orientation import has_turns, orientation
from dali_pipelines.views.params import EvalParams, Tuning, ViewParams

# Decoded instead of an image that is refused.
_ONE_PIXEL = np.frombuffer(simplejpeg.encode_jpeg(np.zeros((1, 1, 3), dtype=np.uint8)), dtype=np.uint8)
_CROP = ("crop_area", "crop_ratio", "crop_position")


def draws_used(view: ViewParams, *, only_crops: bool = False, in_float: bool = False) -> tuple[str, ...]:
    """Return the fields of ViewDraws and Orientation that a view's graph uses.

    DALI warns of inputs that the graph does not use.

    Args:
        view: Parameters of the view.
        only_crops: Whether the graph ends after the resize.
        in_float: Whether views are computed in float32. Then color steps of strength 0 are left out.
    """
    if only_crops:
        return _CROP
    colors = active_steps(view) if in_float or view.jitter_p == 0 else COLOR_STEPS
    return (
        *_CROP,
        *(("transposed",) if view.rot90_p > 0 else ()),
        *(("upside_down",) if has_turns(view) else ()),
        "mirrored",
        *(("jitter", "color_order", *colors) if colors else ()),
        *(("gray",) if view.gray_p > 0 else ()),
        *(("blur", "blur_sigma_px") if view.blur_p > 0 else ()),
        *(("solarize",) if view.solarize_p > 0 else ()),
    )


def inputs_of(
    views: tuple[ViewParams, ...], draws: tuple[ViewDraws, ...], *, only_crops: bool = False, in_float: bool = False
) -> list[Any]:
    """Return the random numbers of one batch, in the order of the inputs of `two_views` after the images.

    Args:
        views: Parameters of each view.
        draws: Random numbers of each view.
        only_crops: Whether the graph ends after the resize.
        in_float: Whether views are computed in float32.
    """
    used = partial(draws_used, only_crops=only_crops, in_float=in_float)
    named = [vars(drawn) | orientation(drawn)._asdict() for drawn in draws]
    return [given[name] for view, given in zip(views, named) for name in used(view)]


@pipeline_def(enable_conditionals=True)
def two_views(
    source: Callable[[], list[Any]],
    kind: Kind,
    max_pixels: int,
    views: tuple[ViewParams, ...],
    device: str,
    tuning: Tuning,
    only_crops: bool = False,
    in_float: bool = False,
    deep: Deep | None = None,
) -> tuple[DataNode, ...]:
    """Build the graph of all random views. Each image is decoded once, unless tuning.decode is "region".

    Args:
        source: Callback that returns the images of a batch and what `inputs_of` returns. It is called once per batch.
            If `deep` is given, the images are two lists: files and pixels, of which one is empty for each image.
        kind: Form of the images: "pixels", or bytes of files.
        max_pixels: Largest height times width of an encoded image, in px.
        views: Parameters of each view; two for Barlow Twins, any number works.
        device: Device that decodes and augments, "cpu" or "gpu".
        tuning: Settings of the graph.
        only_crops: Whether the graph ends after the resize, so that other code can augment the crops.
        in_float: Whether views are computed in float32, of pixels that are not RGB of 8 bits.
        deep: How values of more than 8 bits are decoded, if DALI decodes them.

    Shape:
        - Output, one per view: (size_px, size_px, C) float32 or float16 per sample, layout HWC; uint8 for only_crops.
        - Last output: whether the image was refused, one value per sample.
    """
    names = [draws_used(view, only_crops=only_crops, in_float=in_float) for view in views]
    n_images = 1 if deep is None else 2
    inputs = list(fn.external_source(source=source, num_outputs=n_images + sum(map(len, names)), batch=True))
    by_region = tuning.decode == "region" and kind != "pixels"
    image = whole = None
    if by_region:
        image, shape, refused = opened(inputs.pop(0), kind, max_pixels)
    else:
        whole, shape, refused = decoded(inputs, kind, max_pixels, device, tuning, deep)
    outputs = []
    for view, used in zip(views, names):
        draws = {name: inputs.pop(0) for name in used}
        start, end = augment.crop_window(shape, draws["crop_area"], draws["crop_ratio"], draws["crop_position"], view)
        if by_region:
            window = decoders.decode_window(image, start, end, device, tuning.hw_decoder_load)
        else:
            window = augment.cut(whole, start, end)
        crop = augment.resize(window, view, in_float=in_float)
        finish = float_steps.one_view if in_float else one_view
        outputs.append(crop if only_crops else finish(turned(crop, draws, view), draws, view, tuning.float16))
    return *outputs, refused


@pipeline_def(enable_conditionals=True)
def eval_view(
    source: Callable[[], list[Any]],
    kind: Kind,
    max_pixels: int,
    params: EvalParams,
    device: str,
    tuning: Tuning,
    in_float: bool = False,
    deep: Deep | None = None,
) -> tuple[DataNode, ...]:
    """Build the graph of the evaluation view. Arguments and outputs are those of `two_views`, with one view."""
    inputs = list(fn.external_source(source=source, num_outputs=1 if deep is None else 2, batch=True))
    whole, shape, refused = decoded(inputs, kind, max_pixels, device, tuning, deep)
    x = augment.resize_center_crop(whole, shape, params, in_float=in_float)
    finish = float_steps.normalize if in_float else augment.normalize
    return finish(x, params), refused


def decoded(
    inputs: list[DataNode], kind: Kind, max_pixels: int, device: str, tuning: Tuning, deep: Deep | None
) -> tuple[DataNode, DataNode, DataNode]:
    """Take the images from the inputs. Return all their pixels on the device, their shape, and which are refused."""
    if deep is not None:
        return deep_images.levels_of(inputs.pop(0), inputs.pop(0), deep, device)
    image, shape, refused = opened(inputs.pop(0), kind, max_pixels)
    return pixels_of(image, kind, device, tuning), shape, refused


def opened(first: DataNode, kind: Kind, max_pixels: int) -> tuple[DataNode, DataNode, DataNode]:
    """Return the bytes or pixels on the host, the image's shape, and whether the image is too large.

    Args:
        first: Bytes of a file, or pixels.
        kind: Form of the image: "pixels", or bytes of a file.
        max_pixels: Largest height times width of an encoded image, in px.
    """
    if kind == "pixels":
        shape = first.shape()
        return first, shape, shape[0] < 0
    encoded = first
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    refused = shape[0] * shape[1] > max_pixels
    if refused:
        encoded = types.Constant(_ONE_PIXEL, device="cpu")
        shape = types.Constant(np.array([1, 1, 3]), device="cpu")
    return encoded, shape, refused


def pixels_of(image: DataNode, kind: Kind, device: str, tuning: Tuning) -> DataNode:
    """Return all pixels of an opened image, (H, W, C) of their own type, on the device."""
    if kind != "pixels":
        return decoders.decode(image, device, tuning.hw_decoder_load)
    pixels = fn.reshape(image, layout="HWC")
    return pixels.gpu() if device == "gpu" else pixels


def turned(x: DataNode, draws: dict[str, DataNode], view: ViewParams) -> DataNode:
    """Transpose and flip a crop vertically, as drawn. The last step of the view flips it horizontally."""
    if view.rot90_p > 0:
        if draws["transposed"]:
            x = augment.transpose(x)
    if has_turns(view):
        if draws["upside_down"]:
            x = augment.flip_vertically(x)
    return x


def one_view(x: DataNode, draws: dict[str, DataNode], view: ViewParams, float16: bool) -> DataNode:
    """Apply the augmentations of one view after its crop, in the order of the official transform.

    Args:
        x: Crop after its resize and its turn, (size_px, size_px, C) uint8.
        draws: Random numbers of the view, by their names in ViewDraws and Orientation.
        view: Parameters of the view.
        float16: Whether the output is float16 instead of float32.
    """
    if view.jitter_p > 0:
        if draws["jitter"]:
            x = color_jitter(x, draws, view.hue_space)
    if view.gray_p > 0:
        if draws["gray"]:
            x = augment.to_gray(x)
    if view.blur_p > 0:
        if draws["blur"]:
            x = augment.gaussian_blur(x, draws["blur_sigma_px"])
    if view.solarize_p > 0:
        if draws["solarize"]:
            x = augment.solarize(x)
    return augment.normalize(x, view, fn.cast(draws["mirrored"], dtype=types.INT32), float16)


def color_jitter(x: DataNode, draws: dict[str, DataNode], hue_space: str) -> DataNode:
    """Apply the four color steps, in the order that is drawn for each sample."""
    order = draws["color_order"]
    for turn in range(len(COLOR_STEPS)):
        step = order[turn]
        if step == COLOR_STEPS.index("brightness"):
            x = augment.adjust_brightness(x, draws["brightness"])
        elif step == COLOR_STEPS.index("contrast"):
            x = augment.adjust_contrast(x, draws["contrast"])
        elif step == COLOR_STEPS.index("saturation"):
            x = augment.adjust_saturation(x, draws["saturation"])
        elif hue_space == "hsv":
            x = augment.shift_hue(x, draws["hue"])
        else:
            x = augment.rotate_hue(x, draws["hue"])
    return x
