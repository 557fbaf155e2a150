"""What makes DALI's graph faster does not make other views."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dali_pipelines import PRESETS, Backend, Tuning, TwoViewLoader, array_source
from dali_pipelines.loaders import Batch

VIEWS = PRESETS["barlow_twins"].changed(size_px=64)


def batch(data: Path, tuning: Tuning) -> Batch:
    return next(iter(TwoViewLoader(data / "train", 32, VIEWS, backend=Backend("dali", device="cpu", tuning=tuning))))


def test_a_region_that_is_decoded_alone_is_that_of_the_whole(demo_data: Path) -> None:
    """Except for the colors at the border of a JPEG, which are interpolated from their neighbors."""
    whole, regions = batch(demo_data, Tuning()), batch(demo_data, Tuning(decode="region"))
    assert whole.filenames == regions.filenames
    for one, other in zip(whole.views, regions.views):
        levels = (one - other).abs() * 255 * 0.226
        assert levels.mean() < 0.5
        assert levels.mean((1, 2, 3)).max() < 4


def test_float16_is_the_rounded_view(demo_data: Path) -> None:
    whole, half = batch(demo_data, Tuning()), batch(demo_data, Tuning(float16=True))
    for one, other in zip(whole.views, half.views):
        assert other.dtype == torch.float16
        assert other.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one.half(), other)


def test_pixels_are_not_decoded_by_region() -> None:
    images = torch.randint(0, 256, (4, 40, 40, 3), dtype=torch.uint8)
    loader = TwoViewLoader(
        array_source(images), 4, VIEWS, backend=Backend("dali", device="cpu", tuning=Tuning(decode="region"))
    )
    assert next(iter(loader)).views[0].shape == (4, 3, 64, 64)


def test_bad_values_are_named(demo_data: Path) -> None:
    with pytest.raises(ValueError, match="hw_decoder_load: 2 is not allowed; it must be 0 to 1"):
        Tuning(hw_decoder_load=2)
    with pytest.raises(ValueError, match="decode: 'twice' is not allowed"):
        Tuning(decode="twice")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tuning: applies to backend dali only, and backend native computes the views"):
        TwoViewLoader(demo_data / "train", 8, VIEWS, backend=Backend("native", device="cpu", tuning=Tuning()))
