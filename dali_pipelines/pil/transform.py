"""Compute the same views with PIL, for users of a torch DataLoader."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from dali_pipelines.sources.pil_modes import to_rgb
from dali_pipelines.views.channels import check_channels
from dali_pipelines.views.crop_windows import crop_window
from dali_pipelines.views.draws import COLOR_STEPS, ViewDraws, draw_views
from dali_pipelines.views.params import Preset, ViewParams, resolve_views
from dali_pipelines.views.yiq import hue_matrix

_ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
# Formats that cannot have more than 8 bits per color. None is an image that was created in memory.
_OF_EIGHT_BITS = (None, "JPEG", "MPO", "WEBP", "BMP")
_HUE = COLOR_STEPS.index("hue")
_INTERPOLATION = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}


class BarlowTwinsTransform:
    """Transform a PIL image into its random views. Use it instead of lightly.transforms.BYOLTransform.

    The views have the same distributions as those of dali_pipelines.TwoViewLoader. This transform and the official code
    resize with bicubic interpolation; Lightly's transform resizes with bilinear interpolation. Random numbers come from
    torch's generator, which a DataLoader seeds in each worker.

    Args:
        views: Preset, or the name of one, as for TwoViewLoader.

    Raises:
        ValueError: If no preset has that name, or its views are not for RGB images.

    Examples:
        >>> dataset = LightlyDataset("images/", transform=BarlowTwinsTransform())
    """

    def __init__(self, views: str | Preset = "barlow_twins") -> None:
        self.views = resolve_views(views).views
        for view in self.views:
            check_channels(view, channels=3)

    def __call__(self, image: Image.Image) -> list[Tensor]:
        """Return the normalized views, each (C, size_px, size_px) float32.

        Args:
            image: Image in any of PIL's modes.

        Raises:
            ValueError: If the image has values of an unknown range (see dali_pipelines.sources.pil_modes).
        """
        key = int(torch.randint(2**62, ()))
        is_plain = image.mode == "RGB" and image.format in _OF_EIGHT_BITS
        rgb = image if is_plain else Image.fromarray(to_rgb(image))
        return [view_of(rgb, params, draws) for params, draws in zip(self.views, draw_views(self.views, 1, key))]


def view_of(image: Image.Image, params: ViewParams, draws: ViewDraws, row: int = 0) -> Tensor:
    """Return one view of an image, (C, size_px, size_px) float32, for given random numbers.

    Args:
        image: RGB image.
        params: Parameters of the view.
        draws: Random numbers of a batch.
        row: Position of the image in the batch.
    """
    window = crop_window(image.height, image.width, draws, row, params.crop_ratio)
    size = [params.size_px, params.size_px]
    x = F.resized_crop(image, *window, size, _INTERPOLATION[params.interpolation])
    if draws.flip[row]:
        x = F.hflip(x)
    if draws.flip_v[row]:
        x = F.vflip(x)
    if draws.quarter_turns[row]:
        x = x.rotate(90 * int(draws.quarter_turns[row]))
    if draws.jitter[row]:
        for step in draws.color_order[row]:
            value = float(getattr(draws, COLOR_STEPS[step])[row])
            in_yiq = step == _HUE and params.hue_space == "yiq"
            x = mixed(x, hue_matrix(value)) if in_yiq else _ADJUST[step](x, value)
    if draws.gray[row]:
        x = F.to_grayscale(x, num_output_channels=3)
    if draws.blur[row]:
        x = x.filter(ImageFilter.GaussianBlur(float(draws.blur_sigma_px[row])))
    if draws.solarize[row]:
        x = ImageOps.solarize(x)
    return _normalised(x, params)


def mixed(image: Image.Image, matrix: NDArray[np.float32]) -> Image.Image:
    """Multiply each pixel's color by a matrix.

    Args:
        image: RGB image.
        matrix: Matrix from RGB to RGB, (3, 3) float32.
    """
    return image.convert("RGB", tuple(float(value) for row in matrix for value in (*row, 0)))


def _normalised(image: Image.Image, params: ViewParams) -> Tensor:
    mean, std = list(params.mean), list(params.std)
    if params.channels == 1:
        image, mean, std = image.convert("L"), [sum(mean) / 3], [sum(std) / 3]
    normalised: Tensor = F.normalize(F.to_tensor(image), mean, std)
    return normalised
