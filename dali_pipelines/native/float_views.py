"""Make views in float32, of images that are not RGB of 8 bits. stream.py has the views of those that are."""

from __future__ import annotations

import torch
from torch import Tensor

from dali_pipelines.native import float_steps as steps
from dali_pipelines.native.outputs import Array
from dali_pipelines.native.stream import ViewMaker, gaussian
from dali_pipelines.plans import Plan
from dali_pipelines.views.crop_windows import center_window, crop_window
from dali_pipelines.views.draws import COLOR_STEPS, ViewDraws, active_steps
from dali_pipelines.views.normalization import levels, scale_and_offset
from dali_pipelines.views.orientation import orientation
from dali_pipelines.views.params import EvalParams, ViewParams
from dali_pipelines.views.yiq import hue_matrix


def random_float_view(view: ViewParams, number: int, *, normalized: bool = True) -> ViewMaker:
    """Return the maker of a random view in float32.

    Args:
        view: Parameters of the view. Saturation, hue and gray need images of three channels.
        number: Position of the view's random numbers in Plan.draws.
        normalized: Whether the view is normalized. Otherwise its values are levels from 0 to 255.
    """
    scale, offset = scale_and_offset(view) if normalized else levels(view)
    size = view.size_px, view.size_px

    def write(pixels: Tensor, plan: Plan, row: int, out: Array) -> None:
        draws = plan.draws[number]
        window = crop_window(pixels.shape[0], pixels.shape[1], draws, row, view.crop_ratio)
        crop = pixels[window.top : window.top + window.height, window.left : window.left + window.width]
        planes = steps.resized(crop, size, view.interpolation)
        planes = _turned(planes, draws, row)
        if draws.jitter[row]:
            planes = _jittered(planes, draws, row, view)
        if draws.gray[row]:
            planes = steps.to_gray(planes)
        if draws.blur[row]:
            planes = steps.blur(planes, gaussian(float(draws.blur_sigma_px[row]), view.size_px))
        if draws.solarize[row]:
            planes = steps.solarize(planes)
        _store(steps.normalize(planes, scale, offset), out)

    return ViewMaker(write, (*size, view.channels))


def eval_float_view(params: EvalParams, *, normalized: bool = True) -> ViewMaker:
    """Return the maker of the evaluation view in float32.

    Args:
        params: Parameters of the view.
        normalized: Whether the view is normalized. Otherwise its values are levels from 0 to 255.
    """
    scale, offset = scale_and_offset(params) if normalized else levels(params)

    def write(pixels: Tensor, plan: Plan, row: int, out: Array) -> None:
        size, window = center_window(pixels.shape[0], pixels.shape[1], params.resize_px, params.size_px)
        planes = steps.resized(pixels, size, params.interpolation)
        center = planes[:, window.top : window.top + window.height, window.left : window.left + window.width]
        _store(steps.normalize(center, scale, offset), out)

    return ViewMaker(write, (params.size_px, params.size_px, params.channels))


def _turned(planes: Tensor, draws: ViewDraws, row: int) -> Tensor:
    """Transpose the planes, then flip them vertically and horizontally, as drawn."""
    transposed, *flipped = (bool(each[row]) for each in orientation(draws))
    planes = planes.transpose(1, 2) if transposed else planes
    return planes.flip([dim for dim, is_flipped in enumerate(flipped, 1) if is_flipped]).contiguous()


def _jittered(planes: Tensor, draws: ViewDraws, row: int, view: ViewParams) -> Tensor:
    active = active_steps(view)
    for step in (COLOR_STEPS[number] for number in draws.color_order[row]):
        if step not in active:
            continue
        drawn = float(getattr(draws, step)[row])
        if step == "brightness":
            planes = steps.adjust_brightness(planes, drawn)
        elif step == "contrast":
            planes = steps.adjust_contrast(planes, drawn)
        elif step == "saturation":
            planes = steps.adjust_saturation(planes, drawn)
        elif view.hue_space == "hsv":
            planes = steps.turn_hue(planes, drawn)
        else:
            planes = steps.mix(planes, hue_matrix(drawn))
    return planes


def _store(planes: Tensor, out: Array) -> None:
    torch.from_numpy(out).copy_(planes.permute(1, 2, 0))
