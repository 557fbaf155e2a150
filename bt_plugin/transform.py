"""The same two views by PIL, for users of a DataLoader."""

from __future__ import annotations

import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from dali_pipelines.draws import COLOR_STEPS, ViewDraws, draw_views
from dali_pipelines.params import Preset, ViewParams, resolve_views
from dali_pipelines.windows import crop_window

_ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
_INTERPOLATION = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}


class BarlowTwinsTransform:
    """From a PIL image to its random views, in place of lightly.transforms.BYOLTransform.

    The views and their distributions are those of dali_pipelines.TwoViewLoader. Lightly's transform crops
    by bilinear interpolation, the official code, and this, by bicubic. Random numbers come from torch's
    generator, which a DataLoader seeds in each worker.

    Args:
        views: A preset's name ("barlow_twins", "barlow_twins_32") or a Preset.

    Raises:
        ValueError: If there is no preset of that name.

    Examples:
        >>> dataset = LightlyDataset("images/", transform=BarlowTwinsTransform())
    """

    def __init__(self, views: str | Preset = "barlow_twins") -> None:
        self.views = resolve_views(views).views

    def __call__(self, image: Image.Image) -> list[Tensor]:
        """The views, each (C, size_px, size_px) float32, normalised."""
        key = int(torch.randint(2**62, ()))
        rgb = image.convert("RGB")
        return [view_of(rgb, params, draws) for params, draws in zip(self.views, draw_views(self.views, 1, key))]


def view_of(image: Image.Image, params: ViewParams, draws: ViewDraws, row: int = 0) -> Tensor:
    """The view that was drawn.

    Args:
        image: RGB.
        params: Of the view.
        draws: Of a batch.
        row: Of the image in the batch.
    """
    window = crop_window(image.height, image.width, draws, row, params.crop_ratio)
    size = [params.size_px, params.size_px]
    x = F.resized_crop(image, *window, size, _INTERPOLATION[params.interpolation])
    if draws.flip[row]:
        x = F.hflip(x)
    if draws.jitter[row]:
        for step in draws.color_order[row]:
            x = _ADJUST[step](x, float(getattr(draws, COLOR_STEPS[step])[row]))
    if draws.gray[row]:
        x = F.to_grayscale(x, num_output_channels=3)
    if draws.blur[row]:
        x = x.filter(ImageFilter.GaussianBlur(float(draws.blur_sigma_px[row])))
    if draws.solarize[row]:
        x = ImageOps.solarize(x)
    return _normalised(x, params)


def _normalised(image: Image.Image, params: ViewParams) -> Tensor:
    mean, std = list(params.mean), list(params.std)
    if params.channels == 1:
        image, mean, std = image.convert("L"), [sum(mean) / 3], [sum(std) / 3]
    normalised: Tensor = F.normalize(F.to_tensor(image), mean, std)
    return normalised
