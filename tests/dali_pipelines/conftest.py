"""Loaders on either backend, and batches that must be the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dali_pipelines import PRESETS, Backend, TwoViewLoader
from dali_pipelines.loaders import Batch

SMALL = PRESETS["barlow_twins"].changed(size_px=32)
_CHOSEN: dict[str, Any] = {"name": "auto"}


@pytest.fixture(params=["dali", "native"])
def each_backend(request: pytest.FixtureRequest) -> None:
    """Runs a test on both backends, by means of `cpu`."""
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")
    _CHOSEN["name"] = request.param


def cpu(**options: Any) -> Backend:
    """The backend of the test, on the CPU."""
    return Backend(**_CHOSEN, device="cpu", **options)


def loader(data: Path, batch_size: int = 8, **options: object) -> TwoViewLoader:
    return TwoViewLoader(data / "train", batch_size, SMALL, **{"backend": cpu(num_threads=2), **options})  # type: ignore[arg-type]


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    assert first, "something to compare"
    for one, other in zip(first, second):
        assert one.filenames == other.filenames
        assert torch.equal(one.targets, other.targets)
        for view, same in zip(one.views, other.views):
            assert torch.equal(view, same)
