"""Views that are sent to a device as uint8 and normalized there are the views of the host, to the last bit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dali_pipelines import PRESETS, Backend, EvalParams, Preset, TwoViewLoader
from dali_pipelines.backend import resolve_backend
from dali_pipelines.errors import BadImageError
from dali_pipelines.memory import check_memory
from dali_pipelines.native.outputs import Array, DeviceOutputs, HostOutputs, Normalizer, Outputs, Sent
from dali_pipelines.native.stream import NativeStream, eval_view, random_view
from dali_pipelines.plans import Plan
from dali_pipelines.sources import ImageSource, flat_folder, image_folder
from dali_pipelines.sources.arrays import array_source
from dali_pipelines.views.draws import draw_views
from dali_pipelines.views.params import ViewParams, resolve_views

N = 4
CPU = torch.device("cpu")


def five_channels() -> ImageSource:
    return array_source(np.random.default_rng(0).integers(0, 256, (12, 40, 40, 5), dtype=np.uint8))


def stream_of(source: ImageSource, views: tuple[ViewParams, ...], outputs: Outputs, steps: int = 3) -> NativeStream:
    plans = (Plan(np.arange(step * N, (step + 1) * N), draw_views(views, N, step)) for step in range(steps))
    makers = [
        random_view(view, number, normalized=isinstance(outputs, HostOutputs)) for number, view in enumerate(views)
    ]
    return NativeStream(source, makers, outputs=outputs, plans=plans, backend=resolve_backend(Backend("native")))


def batches(source: ImageSource, views: tuple[ViewParams, ...], outputs: Outputs) -> list[tuple[Tensor, ...]]:
    return [batch for _, batch in stream_of(source, views, outputs)]


def small(views: tuple[ViewParams, ...], channels: int) -> tuple[ViewParams, ...]:
    changes = {"size_px": 33, "channels": channels}
    if channels == 5:
        changes |= {"jitter_p": 0.0, "gray_p": 0.0, "mean": (0.4,) * 5, "std": (0.2, 0.3, 0.1, 0.25, 0.5)}
    return tuple(replace(view, **changes) for view in views)


@pytest.mark.parametrize(
    ("preset", "channels"), [*((name, 3) for name in PRESETS), ("barlow_twins", 1), ("barlow_twins", 5)]
)
def test_the_numbers_are_those_of_the_host(small_data: Path, preset: str, channels: int) -> None:
    source = five_channels() if channels == 5 else image_folder(small_data / "train")
    views = small(resolve_views(preset).views, channels)
    on_host = batches(source, views, HostOutputs())
    sent = batches(source, views, DeviceOutputs(Normalizer(views, CPU), CPU))
    assert len(on_host) == len(sent) == 3
    for ours, theirs in zip(sent, on_host):
        for view, expected in zip(ours, theirs, strict=True):
            assert torch.equal(view, expected)
            assert view.dtype == torch.float32
            assert view.is_contiguous(memory_format=torch.channels_last)


def test_the_evaluation_view_too(small_data: Path) -> None:
    source, params = image_folder(small_data / "val"), EvalParams(32, 36)
    found = []
    for outputs in (HostOutputs(), DeviceOutputs(Normalizer([params], CPU), CPU)):
        plans: Iterator[Plan] = iter([Plan(np.arange(N))])
        maker = eval_view(params, normalized=isinstance(outputs, HostOutputs))
        stream = NativeStream(source, [maker], outputs=outputs, plans=plans, backend=resolve_backend("native"))
        found += [images for _, (images,) in stream]
    assert torch.equal(*found)


class Slow(DeviceOutputs):
    """Outputs that note what is asked of them, and send slowly, so that the next batch is complete by then."""

    def __init__(self, views: tuple[ViewParams, ...]) -> None:
        super().__init__(Normalizer(views, CPU), CPU)
        self.calls: list[str] = []

    def send(self, arrays: Sequence[Array]) -> Sent:
        self.calls.append("send")
        time.sleep(0.3)
        return super().send(arrays)

    def receive(self, plan: Plan, sent: Sent) -> tuple[Tensor, ...]:
        self.calls.append("receive")
        return super().receive(plan, sent)


def test_a_complete_batch_is_sent_before_the_one_before_it_is_used(small_data: Path) -> None:
    views = small(resolve_views("barlow_twins_32").views, 3)
    outputs = Slow(views)
    batches(image_folder(small_data / "train"), views, outputs)
    assert outputs.calls == ["send", "send", "receive", "send", "receive", "receive"]


def test_a_bad_file_ends_no_batch_before_its_own(small_data: Path, tmp_path: Path) -> None:
    """A batch with an error is not sent ahead: the batch before it is returned first."""
    images = [path for path in sorted((small_data / "train").rglob("*")) if path.is_file()][: 2 * N]
    for number, path in enumerate(images):
        (tmp_path / f"{number}{path.suffix}").write_bytes(path.read_bytes() if number != 7 else b"no image")
    views = small(resolve_views("barlow_twins_32").views, 3)
    found: list[tuple[Plan, tuple[Tensor, ...]]] = []
    with pytest.raises(BadImageError, match=r"7\."):
        found.extend(stream_of(flat_folder(tmp_path), views, Slow(views), steps=2))
    assert [plan.indices.tolist() for plan, _ in found] == [[0, 1, 2, 3]]


def test_the_native_backend_uses_a_gpu_only_if_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Backend("native").resolve().device == "cpu"
    told = Backend("native", device="gpu").resolve()
    assert (told.name, told.device) == ("native", "gpu")
    assert Backend().resolve().name == "dali"


def test_pinned_batches_need_the_memory_of_the_host() -> None:
    """They have a byte for each value. A GPU's memory does not limit them."""
    backend = resolve_backend(Backend("native"))._replace(device="gpu", prefetch=2)
    check_memory([EvalParams()], samples=64, backend=backend)
    with pytest.raises(ValueError, match="prefetch: 2 batches"):
        check_memory([EvalParams()], samples=2**30, backend=backend)


@pytest.mark.gpu
def test_the_loader_has_the_same_views_on_a_gpu(small_data: Path) -> None:
    preset = Preset(small(resolve_views("barlow_twins").views, 3))

    def first(device: str) -> list[tuple[Tensor, ...]]:
        backend = Backend("native", device=device)  # type: ignore[arg-type]
        return [views for views, _, _ in TwoViewLoader(small_data / "train", N, preset, backend=backend)]

    for ours, theirs in zip(first("gpu"), first("cpu"), strict=True):
        for view, expected in zip(ours, theirs, strict=True):
            assert view.device.type == "cuda"
            assert torch.equal(view.cpu(), expected)
