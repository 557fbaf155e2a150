"""The resize by matrix products is that of PIL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dali_pipelines.gpu.resize import resize_weights, resized_crops

N = 48
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def random_windows(height: int, width: int) -> NDArray[np.int64]:
    """Windows of all sizes from one pixel to the whole image, some of them at its borders."""
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(1, height + 1, N), rng.integers(1, width + 1, N)
    heights[:4], widths[:4] = (height, height, 1, 2), (width, 1, width, 2)
    tops, lefts = (rng.integers(0, side - lengths + 1) for side, lengths in ((height, heights), (width, widths)))
    return np.stack([tops, lefts, heights, widths], axis=1)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("size", "size_px"), [((32, 32), 32), ((40, 56), 24), ((96, 80), 96), ((28, 28), 45)])
def test_the_crops_are_pils(size: tuple[int, int], size_px: int, interpolation: str) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (N, *size, 3), dtype=np.uint8)
    images[0], images[1] = 0, 255
    windows = random_windows(*size)
    got = resized_crops(
        torch.from_numpy(images), torch.from_numpy(windows), size_px=size_px, interpolation=interpolation
    )
    assert got.dtype == torch.uint8
    assert got.is_contiguous()
    cut = (image[top : top + height, left : left + width] for image, (top, left, height, width) in zip(images, windows))
    expected = np.stack([Image.fromarray(crop).resize((size_px,) * 2, FILTERS[interpolation]) for crop in cut])
    difference = np.abs(got.numpy().astype(int) - expected)
    # PIL's weights have 22 bits, so values that end near .5 round differently. Bilinear weights end there often.
    assert difference.max() <= 2
    assert difference.mean() < (0.001 if interpolation == "bicubic" else 0.03)
    assert not difference[:2].any(), "black stays black, white stays white"


def test_five_channels_are_five_images() -> None:
    images = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (N, 33, 33, 5), dtype=np.uint8))
    windows = torch.from_numpy(random_windows(33, 33))
    options: dict[str, Any] = {"size_px": 20, "interpolation": "bicubic"}
    whole = resized_crops(images, windows, **options)
    for channel in range(5):
        alone = resized_crops(images[..., channel : channel + 1], windows, **options)
        assert (alone[..., 0].int() - whole[..., channel].int()).abs().max() <= 1
        assert torch.equal(alone[..., 0], whole[..., channel]) or (alone[..., 0] != whole[..., channel]).sum() < 10


def test_the_weights_of_a_row_add_up_to_one_and_stay_in_the_window() -> None:
    starts, lengths = torch.tensor([0, 3, 9]), torch.tensor([10, 4, 1])
    weights = resize_weights(starts, lengths, pixels=10, size_px=7, interpolation="bicubic")
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 7, dtype=torch.float64))
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist())):
        assert not weights[row, :, :start].any()
        assert not weights[row, :, start + length :].any()


def test_autocast_has_no_influence() -> None:
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8))
    windows = torch.from_numpy(random_windows(32, 32))
    alone = resized_crops(images, windows, size_px=32, interpolation="bicubic")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resized_crops(images, windows, size_px=32, interpolation="bicubic"), alone)
