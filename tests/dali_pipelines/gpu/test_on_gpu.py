"""The kernels on a GPU, against the native kernel on the CPU, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with torch's CUDA wheels for Linux only")

from dali_pipelines import PRESETS, Backend, TwoViewLoader
from dali_pipelines.gpu.augment import augment
from tests.dali_pipelines.gpu.cases import CASES, Case

pytestmark = pytest.mark.gpu

LEVELS = 255 * 0.226


@pytest.fixture
def _no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", [*CASES.values(), Case(8, {"size_px": 224})], ids=[*CASES, "full size"])
def test_views_are_those_of_the_native_kernel(case: Case, dtype: torch.dtype) -> None:
    pixels = torch.from_numpy(case.pixels).cuda()
    for _ in range(3):
        got = augment(pixels, case.table, view=case.params, dtype=dtype)
        assert got.is_contiguous(memory_format=torch.channels_last)
        expected = torch.from_numpy(case.expected()).to(dtype)
        bits = torch.int32 if dtype == torch.float32 else torch.int16
        assert torch.equal(got.cpu().permute(0, 2, 3, 1).contiguous().view(bits), expected.view(bits))
    assert torch.equal(pixels.cpu(), torch.from_numpy(case.pixels)), "the pixels are only read"


def test_a_side_stream_gives_the_same() -> None:
    case = Case(8, {"size_px": 224})
    pixels = torch.from_numpy(case.pixels).cuda()
    expected = augment(pixels, case.table, view=case.params)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        got = augment(pixels, case.table, view=case.params)
    side.synchronize()
    assert torch.equal(got, expected)


def test_the_host_does_not_wait(_no_waiting: None) -> None:  # noqa: PT019
    case = Case(4, {"size_px": 64})
    pixels = torch.from_numpy(case.pixels).pin_memory().to("cuda", non_blocking=True)
    for _ in range(3):
        augment(pixels, case.table, view=case.params)


@pytest.mark.parametrize("changes", [{}, {"hue_space": "yiq"}, {"channels": 1}, {"flip_v_p": 0.5, "rot90_p": 0.75}])
def test_a_loaders_views_are_near_those_of_dalis_operators(demo_data: Path, changes: dict[str, Any]) -> None:
    pytest.importorskip("nvidia.dali")
    preset = PRESETS["barlow_twins"].changed(size_px=64, **changes)
    loaders = [
        TwoViewLoader(demo_data / "train", 32, preset, backend=Backend("dali", device="gpu", augment=name))
        for name in ("dali", "fused")
    ]
    for number, (dali, fused) in enumerate(zip(*loaders)):
        assert dali.filenames == fused.filenames
        for first, second in zip(dali.views, fused.views):
            assert second.is_cuda
            assert second.is_contiguous(memory_format=torch.channels_last)
            difference = (first - second).abs() * LEVELS
            assert difference.mean() <= 0.02
            assert difference.max() <= 2.1
        if number == 5:
            break
