"""The stream whose graph ends after the resize, on a CPU: DALI's crops, then the kernels, interpreted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with torch's CUDA wheels for Linux only")
pytest.importorskip("nvidia.dali")

from dali_pipelines import PRESETS, Backend, TwoViewLoader, streams
from dali_pipelines.gpu import batches
from dali_pipelines.plans import Plan
from dali_pipelines.views.draws import draw_views
from tests.dali_pipelines.gpu.test_interpreted import interpreted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("barlow_twins_overhead", {"size_px": 48}),
        ("barlow_twins", {"size_px": 33, "hue_space": "yiq", "blur_p": 0.5, "gray_p": 0.5, "solarize_p": 0.5}),
        ("barlow_twins_32", {"channels": 1}),
    ],
)
def test_views_are_those_of_the_native_kernel_and_near_dalis(
    small_data: Path, preset: str, changes: dict[str, Any]
) -> None:
    found = interpreted("from_dali", str(small_data / "train"), preset, json.dumps(changes))
    assert found["bits"] == 0, "values that differ from those of the native kernel for the same crops"
    # In levels. All operators of DALI together, whose bounds are those of dali/test_augment.py.
    assert found["mean"] <= 0.02
    assert found["largest"] <= 2.1
    assert found["mean"] > 0, "they are not the same code"


def test_crops_are_kept_until_the_kernels_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[SimpleNamespace] = []

    def event() -> SimpleNamespace:
        events.append(SimpleNamespace(is_done=False, record=lambda: None))
        events[-1].query = lambda one=events[-1]: one.is_done
        return events[-1]

    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(batches, "augment", lambda crop, table, **options: crop)
    views = PRESETS["barlow_twins"].views
    augmenter = batches.BatchAugmenter(views)
    plan = Plan(torch.arange(4).numpy(), draw_views(views, 4, 0))
    kept = []
    for _ in range(3):
        crops: Any = tuple(SimpleNamespace(is_cuda=True) for _ in views)
        kept.append(crops)
        assert augmenter(plan, crops) == crops
    assert [each.crops for each in augmenter._in_use] == kept
    events[0].is_done = events[2].is_done = True
    augmenter(plan, kept[0])
    assert [each.crops for each in augmenter._in_use] == [kept[1], kept[2], kept[0]], "in the order of the stream"


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("batches", "augment", "kernels", "colors"):
        monkeypatch.delitem(sys.modules, f"dali_pipelines.gpu.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ImportError, match="augment: fused needs Triton, which is not installed; pip"):
        streams._fused_augmenter()


def test_a_cpu_is_refused(small_data: Path) -> None:
    for name in ("dali", "native", "auto"):
        backend = Backend(name, device="cpu", augment="fused")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"augment: fused is not allowed on a CPU.*use augment auto, and"):
            TwoViewLoader(small_data / "train", 8, backend=backend)
    with pytest.raises(ValueError, match="augment: 'both' is not allowed; it must be auto, dali or fused"):
        Backend(augment="both")  # type: ignore[arg-type]
    assert Backend("dali", device="cpu").resolve().augment == "dali"
