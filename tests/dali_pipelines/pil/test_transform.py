"""The transform gives the loader's pixels for the same random numbers, and has Lightly's interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightly.data import LightlyDataset
from PIL import Image
from torch.utils.data import DataLoader

from bt_plugin import BarlowTwinsTransform
from dali_pipelines import PRESETS, Backend, TwoViewLoader
from dali_pipelines.pil.transform import mixed, view_of
from dali_pipelines.views.draws import draw_views
from dali_pipelines.views.yiq import hue_matrix
from tests.dali_pipelines import reference
from tests.dali_pipelines.reference import TURNS


@pytest.mark.parametrize("changes", [{"channels": 1}, {"channels": 3}, {"hue_space": "yiq"}])
def test_pixels_are_the_loaders(demo_data: Path, changes: dict[str, Any]) -> None:
    preset = PRESETS["barlow_twins"].changed(size_px=64, **changes)
    batch = next(iter(TwoViewLoader(demo_data / "train", 32, preset, backend=Backend(device="cpu"), seed=5)))
    images = [Image.open(demo_data / "train" / name) for name in batch.filenames]
    for params, views, draws in zip(preset.views, batch.views, draw_views(preset.views, 32, 5, 0, 0)):
        ours = torch.stack([view_of(image, params, draws, row) for row, image in enumerate(images)])
        difference = (ours - views).abs().mean((1, 2, 3)) * 255 * 0.226
        # Most of it is PIL's blur by boxes and its hue in 8 bits.
        assert difference.median() < 0.8
        assert difference.amax() < 3.5


def test_hue_in_yiq_is_a_matrix(photographs: list[Image.Image]) -> None:
    for photo, turns in zip(photographs, TURNS):
        assert (
            reference.distance([np.asarray(mixed(photo, hue_matrix(turns)))], [reference.hue_in_yiq(photo, turns)])[1]
            <= 1
        )


def test_views_of_other_channels_are_refused() -> None:
    preset = PRESETS["barlow_twins"].changed(channels=5, mean=(0,) * 5, std=(1,) * 5)
    with pytest.raises(ValueError, match="channels 5 is not allowed for images of 3"):
        BarlowTwinsTransform(preset)


def test_works_in_lightlys_data_set_and_a_data_loader(small_data: Path) -> None:
    dataset = LightlyDataset(str(small_data / "train"), transform=BarlowTwinsTransform("barlow_twins_32"))
    views, targets, filenames = next(iter(DataLoader(dataset, batch_size=6, num_workers=2)))
    assert [tuple(view.shape) for view in views] == [(6, 3, 32, 32)] * 2
    assert not torch.equal(*views)
    assert len(targets) == len(filenames) == 6


def test_random_numbers_are_torchs(small_data: Path) -> None:
    image = Image.open(next((small_data / "train" / "coffee").iterdir()))
    transform = BarlowTwinsTransform("barlow_twins_32")
    torch.manual_seed(3)
    first, other = transform(image), transform(image)
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(first, transform(image)))
    assert not torch.equal(first[0], other[0])


def test_any_mode_of_image_is_taken() -> None:
    for mode in ("L", "RGBA", "CMYK", "P"):
        views = BarlowTwinsTransform("barlow_twins_32")(Image.new(mode, (50, 40)))
        assert [tuple(view.shape) for view in views] == [(3, 32, 32)] * 2
