"""The DALI graphs: encoded files in, normalised views out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import DataNode

from dali_pipelines import augment
from dali_pipelines.draws import COLOR_STEPS, ViewDraws
from dali_pipelines.params import EvalParams, ViewParams

_CROP = ("crop_area", "crop_ratio", "crop_position", "flip")
_JITTER = ("jitter", "color_order", *COLOR_STEPS)


def draws_used(view: ViewParams) -> tuple[str, ...]:
    """The fields of ViewDraws that a view's graph takes; DALI wants no input that it does not use."""
    return (
        *_CROP,
        *(_JITTER if view.jitter_p > 0 else ()),
        *(("gray",) if view.gray_p > 0 else ()),
        *(("blur", "blur_sigma_px") if view.blur_p > 0 else ()),
        *(("solarize",) if view.solarize_p > 0 else ()),
    )


def feed_of(paths: list[Any], views: tuple[ViewParams, ...], draws: tuple[ViewDraws, ...]) -> list[Any]:
    """One batch in the order in which `two_views` takes its inputs."""
    return [paths, *(getattr(drawn, name) for view, drawn in zip(views, draws) for name in draws_used(view))]


@pipeline_def(enable_conditionals=True)
def two_views(source: Callable[[], list[Any]], views: tuple[ViewParams, ...], device: str) -> tuple[DataNode, ...]:
    """Decodes each file once and makes every view of it.

    Args:
        source: Called once a batch for what `feed_of` returns.
        views: The views' parameters; two for Barlow Twins, any number works.
        device: "cpu" or "gpu": where the pixels are decoded and changed.

    Shape:
        Output: one a view, (size_px, size_px, 3) float32 a sample, layout HWC.
    """
    names = [draws_used(view) for view in views]
    paths, *inputs = fn.external_source(source=source, num_outputs=1 + sum(map(len, names)), batch=True)
    encoded = fn.io.file.read(paths)
    images = augment.decode(encoded, device)
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    outputs = []
    for view, used in zip(views, names):
        draws = {name: inputs.pop(0) for name in used}
        outputs.append(one_view(images, shape, draws, view))
    return tuple(outputs)


def one_view(images: DataNode, shape: DataNode, draws: dict[str, DataNode], view: ViewParams) -> DataNode:
    """The augmentations of one view, in the order of the official transform."""
    x = augment.random_resized_crop(
        images, shape, draws["crop_area"], draws["crop_ratio"], draws["crop_position"], view
    )
    if view.jitter_p > 0:
        if draws["jitter"]:
            x = color_jitter(x, draws)
    if view.gray_p > 0:
        if draws["gray"]:
            x = augment.to_gray(x)
    if view.blur_p > 0:
        if draws["blur"]:
            x = augment.gaussian_blur(x, draws["blur_sigma_px"])
    if view.solarize_p > 0:
        if draws["solarize"]:
            x = augment.solarize(x)
    return augment.normalize(x, view, mirror=fn.cast(draws["flip"], dtype=types.INT32))


def color_jitter(x: DataNode, draws: dict[str, DataNode]) -> DataNode:
    """The four colour steps in the order that was drawn for each sample."""
    order = draws["color_order"]
    for turn in range(len(COLOR_STEPS)):
        step = order[turn]
        if step == COLOR_STEPS.index("brightness"):
            x = augment.adjust_brightness(x, draws["brightness"])
        elif step == COLOR_STEPS.index("contrast"):
            x = augment.adjust_contrast(x, draws["contrast"])
        elif step == COLOR_STEPS.index("saturation"):
            x = augment.adjust_saturation(x, draws["saturation"])
        else:
            x = augment.shift_hue(x, draws["hue"])
    return x


@pipeline_def
def eval_view(source: Callable[[], list[Any]], params: EvalParams, device: str) -> DataNode:
    """Decodes each file and makes its one deterministic view.

    Shape:
        Output: (size_px, size_px, 3) float32 a sample, layout HWC.
    """
    (paths,) = fn.external_source(source=source, num_outputs=1, batch=True)
    encoded = fn.io.file.read(paths)
    images = augment.decode(encoded, device)
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    return augment.normalize(augment.resize_center_crop(images, shape, params), params)
