"""Draw a picture of what a recipe trains on: images, their views, and the random draws of each view.

The views that PIL computes from the same draws are next to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from bt_plugin.config.recipe import Recipe
from bt_plugin.data.from_recipe import backend_of, open_sources
from bt_plugin.monitoring.view_pixels import COLORS, pixels_of
from dali_pipelines.decoding.read_pixels import read_pixels
from dali_pipelines.loaders import TwoViewLoader
from dali_pipelines.pil.transform import view_of
from dali_pipelines.sources import ImageSource
from dali_pipelines.views.crop_windows import crop_window
from dali_pipelines.views.draws import COLOR_STEPS, ViewDraws, draw_views
from dali_pipelines.views.params import ViewParams

_CELL_PX, _GAP_PX, _HEAD_PX, _TEXT_PX = 192, 8, 22, 104


def preview(recipe: Recipe, images: int) -> Image.Image:
    """Draw the first images of a run, one per row.

    A row has the image with both crops, then each view as the run and as PIL computes it.

    Args:
        recipe: The run's recipe.
        images: Largest number of images. The number drawn divides the global batch, so that the views are those of
            the run's first step.

    Raises:
        RecipeError: If the images cannot be loaded as the recipe says.
    """
    source, _ = open_sources(recipe)
    batch = recipe.optim.global_batch_size
    recipe.steps_per_epoch(source.epoch_length)
    lines = max(number for number in range(1, min(images, batch) + 1) if batch % number == 0)
    device = torch.device("cuda" if torch.cuda.is_available() and recipe.run.device != "cpu" else "cpu")
    loader = TwoViewLoader(
        source,
        lines,
        recipe.preset,
        rank=0,
        world_size=batch // lines,
        seed=recipe.run.seed,
        shuffle_window=recipe.data.shuffle_window,
        max_bad_files=recipe.data.max_bad_files,
        backend=backend_of(recipe.data, device),
    )
    views, _, names = next(iter(loader))
    draws = draw_views(loader.views, batch, recipe.run.seed, 0, 0)
    maker = "DALI" if loader.backend.name == "dali" else "the native backend"
    with_pil = source.channels == 3 and source.pixel_dtype == np.uint8
    heads = ["image with both crops"]
    for name in "ab":
        heads += [f"view {name}, by {maker}", *([f"view {name}, by PIL"] if with_pil else [])]
    page = _Page(heads, lines)
    for line, name in enumerate(names):
        image = opened(source, source.names.index(name), recipe.data.max_pixels)
        text = f"{_short(name)}\n{image.width} x {image.height} px"
        page.cell(line, 0, _with_crops(image, loader.views, draws, line), text)
        column = 1
        for view, of_view, made in zip(loader.views, draws, views):
            page.cell(line, column, Image.fromarray(pixels_of(made[line], view)), told(of_view, line))
            if with_pil:
                page.cell(line, column + 1, Image.fromarray(pixels_of(view_of(image, view, of_view, line), view)), "")
            column += 1 + with_pil
    return page.image


def _short(name: str) -> str:
    """Return the end of a name, as much as fits in a cell."""
    return name if len(name) <= 28 else f"...{name[-25:]}"


def opened(source: ImageSource, index: int, max_pixels: int) -> Image.Image:
    """Return an image as the views see it, in 8 bits: its first three channels, or the first of two."""
    pixels = read_pixels(source, index, max_pixels)[:, :, :3].round().to(torch.uint8)
    if pixels.shape[2] < 3:
        pixels = pixels[:, :, :1].expand(-1, -1, 3)
    return Image.fromarray(pixels.contiguous().numpy())


def told(draws: ViewDraws, row: int) -> str:
    """Describe the random draws of a view, one line per operation."""
    flips = [name for name, drawn in (("flipped", draws.flip), ("upside down", draws.flip_v)) if drawn[row]]
    lines = [", ".join(flips) or "not flipped"]
    if draws.quarter_turns[row]:
        lines.append(f"turned by {90 * int(draws.quarter_turns[row])} degrees")
    if draws.jitter[row]:
        steps = [COLOR_STEPS[step] for step in draws.color_order[row]]
        values = [f"{step} {getattr(draws, step)[row]:.2f}" for step in steps]
        lines += [", ".join(values[:2]) + ",", ", ".join(values[2:])]
    if draws.gray[row]:
        lines.append("gray")
    if draws.blur[row]:
        lines.append(f"blurred, sigma {draws.blur_sigma_px[row]:.2f} px")
    if draws.solarize[row]:
        lines.append("solarized")
    return "\n".join(lines)


def _with_crops(
    image: Image.Image, views: tuple[ViewParams, ...], draws: tuple[ViewDraws, ...], row: int
) -> Image.Image:
    image = image.copy()
    pen = ImageDraw.Draw(image)
    width = max(1, round(max(image.size) / _CELL_PX * 2))
    for view, of_view, color in zip(views, draws, COLORS):
        top, left, height, across = crop_window(image.height, image.width, of_view, row, view.crop_ratio)
        pen.rectangle((left, top, left + across - 1, top + height - 1), outline=color, width=width)
    return image


class _Page:
    """A table of pictures with a text below each."""

    def __init__(self, heads: list[str], lines: int) -> None:
        size = (len(heads) * (_CELL_PX + _GAP_PX), _HEAD_PX + lines * (_CELL_PX + _TEXT_PX))
        self.image = Image.new("RGB", size, "white")
        self._pen = ImageDraw.Draw(self.image)
        self._font: Any = ImageFont.load_default(12)
        for column, head in enumerate(heads):
            color = next((COLORS["ab".index(name)] for name in "ab" if head.startswith(f"view {name}")), "black")
            self._pen.text((column * (_CELL_PX + _GAP_PX) + 4, 3), head, color, self._font)

    def cell(self, line: int, column: int, picture: Image.Image, text: str) -> None:
        left, top = column * (_CELL_PX + _GAP_PX) + 4, _HEAD_PX + line * (_CELL_PX + _TEXT_PX)
        scale = _CELL_PX / max(picture.size)
        fitting = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        self.image.paste(picture.convert("RGB").resize(fitting, Image.Resampling.BICUBIC), (left, top))
        self._pen.multiline_text((left, top + _CELL_PX + 3), text, "black", self._font, spacing=2)
