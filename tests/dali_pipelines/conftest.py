"""Loaders on every backend, and batches that must be the same."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from dali_pipelines import PRESETS, Backend, TwoViewLoader
from dali_pipelines.loaders import Batch

SMALL = PRESETS["barlow_twins"].changed(size_px=32)
_CPU = {"name": "auto", "device": "cpu"}
_CHOSEN: dict[str, Any] = dict(_CPU)


@pytest.fixture(params=["dali", "native", pytest.param("dali on a gpu", marks=pytest.mark.gpu)])
def each_backend(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Runs a test on every backend, by means of `chosen`."""
    name, _, device = request.param.partition(" on a ")
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    _CHOSEN.update(name=name, device=device or "cpu")
    yield
    _CHOSEN.update(_CPU)


def chosen(**options: Any) -> Backend:
    """The backend of the test; without `each_backend` that of a CPU."""
    return Backend(**_CHOSEN, **options)


def loader(data: Path, batch_size: int = 8, **options: object) -> TwoViewLoader:
    return TwoViewLoader(data / "train", batch_size, SMALL, **{"backend": chosen(num_threads=2), **options})  # type: ignore[arg-type]


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    assert first, "something to compare"
    for one, other in zip(first, second):
        assert one.filenames == other.filenames
        assert torch.equal(one.targets, other.targets)
        for view, same in zip(one.views, other.views):
            assert torch.equal(view, same)
