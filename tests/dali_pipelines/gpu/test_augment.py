"""What the entry to the kernels refuses, and what it leaves out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with torch's CUDA wheels for Linux only")

from dali_pipelines.gpu.augment import MOST_SIZE_PX, MOST_VALUES, augment
from dali_pipelines.gpu.table import view_table
from dali_pipelines.views.draws import draw_views
from dali_pipelines.views.params import ViewParams
from tests.dali_pipelines.gpu.cases import FIVE, OFF, Case
from tests.dali_pipelines.gpu.recorded import record

VIEW = ViewParams(size_px=16)
TABLE = view_table(draw_views((VIEW,), 4, 0)[0], VIEW)
PIXELS = torch.zeros(4, 16, 16, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("pixels", "named"),
    [
        (PIXELS[:3], r"pixels: shape \(3, 16, 16, 3\) is not allowed; it must be \(4, 16, 16, C\)"),
        (PIXELS.permute(0, 3, 1, 2), r"pixels: shape \(4, 3, 16, 16\)"),
        (PIXELS[..., 0], "pixels: shape"),
        (PIXELS[..., :2], "pixels: 2 channels are not allowed for views of 3"),
        (PIXELS.float(), "pixels: torch.float32, contiguous, is not allowed; it must be torch.uint8 and contiguous"),
        (PIXELS.transpose(1, 2), "pixels: torch.uint8, not contiguous, is not allowed"),
        (PIXELS, "pixels: device cpu is not allowed, because Triton's kernels need a CUDA device"),
    ],
)
def test_bad_pixels_are_named(pixels: torch.Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        augment(pixels, TABLE, view=VIEW)


def test_other_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"dtype: torch.float64 is not allowed; it must be one of torch.float32"):
        augment(PIXELS, TABLE, view=VIEW, dtype=torch.float64)
    with pytest.raises(ValueError, match="pixels: 5 channels are not allowed with color steps or gray, which need 3"):
        augment(PIXELS[..., [0, 1, 2, 0, 1]].contiguous(), TABLE, view=replace(VIEW, **FIVE))
    large = ViewParams(size_px=2056)
    pixels = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(1, 2056, 2056, 3).contiguous()
    with pytest.raises(ValueError, match="pixels: 1 crops of 2056 px and 3 channels are not allowed"):
        augment(pixels, view_table(draw_views((large,), 1, 0)[0], large), view=large)


def test_kernels_that_no_sample_needs_are_not_launched() -> None:
    for changes, names in (
        ({}, ["write_views"]),
        ({"gray_p": 1.0}, ["sum_luma", "change_colors", "write_views"]),
        ({"blur_p": 1.0}, ["blur_rows", "write_views"]),
    ):
        launches = record(Case(2, {**OFF, **changes}), 90)
        assert [launch.name for launch in launches] == names


def test_whole_numbers_fit_into_int32() -> None:
    pixels = MOST_SIZE_PX**2
    assert 2 * 255 * pixels + pixels < 2**31, "a white crop, of which change_colors computes the mean"
    assert 2 * MOST_VALUES <= 2**31
