"""Views of images on the device: those of the native backend, but for the rounding of the resize."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dali_pipelines import PRESETS, Backend, TwoViewLoader
from dali_pipelines.gpu.pixels import PixelStream, check_fits, pixels_on
from dali_pipelines.plans import Plan
from dali_pipelines.sources import array_source, image_folder
from dali_pipelines.streams import view_stream
from dali_pipelines.views.draws import draw_views
from dali_pipelines.views.params import ViewParams
from tests.dali_pipelines.gpu.cases import natively

N = 8
CPU = torch.device("cpu")


def plans_of(views: tuple[ViewParams, ...], first: int = 0) -> Iterator[Plan]:
    for step in range(first, 3):
        yield Plan(np.arange(step * N, step * N + N)[::-1].copy(), draw_views(views, N, step))


def images(channels: int) -> Any:
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(3 * N, 5, 5, channels)).repeat(8, axis=1).repeat(8, axis=2)
    return array_source(np.clip(128 + 60 * smooth, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("preset", "channels"), [("barlow_twins_32", 3), ("barlow_twins_overhead", 3), ("barlow_twins_32", 1)]
)
def test_the_views_are_those_of_the_native_backend(preset: str, channels: int) -> None:
    """Gray images become RGB, as in the native backend. The kernel of the native backend finishes both."""
    views = PRESETS[preset].changed(size_px=28, gray_p=0.3, solarize_p=0.3).views
    source = images(channels)

    def finish(plan: Plan, crops: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(
            torch.from_numpy(natively(crop.numpy(), draws, view)).permute(0, 3, 1, 2)
            for crop, draws, view in zip(crops, plan.draws, views)
        )

    expected = view_stream(
        source, views, plans=plans_of(views), batch_size=N, backend=Backend("native", device="cpu").resolve()
    )
    stream = PixelStream(pixels_on(CPU, source), views, plans=plans_of(views), finish=finish)
    differences = []
    for (plan, ours), (same, theirs) in zip(stream, expected, strict=True):
        assert plan.indices.tolist() == same.indices.tolist()
        differences += [(view - other).abs() * 255 * 0.226 for view, other in zip(ours, theirs, strict=True)]
    assert len(differences) == 6
    assert torch.stack(differences).mean() < 0.1, "in levels; one level of a crop is seldom, and colors may double it"
    stream.restart(plans_of(views, first=2))
    (again,) = list(stream)
    assert again[0].indices[0] == 3 * N - 1


def test_what_does_not_fit_is_refused(small_data: Path) -> None:
    source = images(3)
    check_fits(source, 2 * source.images.nbytes)
    with pytest.raises(ValueError, match="on_device: true is not allowed, because the images need"):
        check_fits(source, 2 * source.images.nbytes - 1)
    with pytest.raises(ValueError, match="on_device: true is allowed only for images that are one array of pixels"):
        check_fits(image_folder(small_data / "train"), 2**40)


def test_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="on_device: true is not allowed on a CPU"):
        Backend(device="cpu", on_device=True).resolve()
    assert not Backend(device="cpu").resolve().on_device


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["barlow_twins_overhead", "barlow_twins_32"])
def test_kernels_finish_crops_of_the_native_backend_and_of_the_device(preset: str) -> None:
    pytest.importorskip("triton", reason="Triton comes with torch's CUDA wheels for Linux only")
    from tests.dali_pipelines.gpu.test_interpreted import interpreted

    found = interpreted("from_pixels", preset)
    assert found["native_bits"] == 0, "values that differ from those of the native backend on a CPU"
    assert found["device_mean"] < 0.1


@pytest.mark.gpu
def test_the_loader_on_a_gpu_has_the_views_of_the_cpu() -> None:
    source, preset = images(3), PRESETS["barlow_twins_32"].changed(size_px=28)
    backends = Backend("native", device="cpu"), Backend("native", device="gpu", on_device=True)
    found = [[views for views, _, _ in TwoViewLoader(source, N, preset, backend=backend)] for backend in backends]
    for theirs, ours in zip(*found, strict=True):
        for expected, view in zip(theirs, ours, strict=True):
            assert view.device.type == "cuda"
            assert view.is_contiguous(memory_format=torch.channels_last)
            assert ((view.cpu() - expected).abs() * 255 * 0.226).mean() < 0.1
