"""Record the launches of `augment`, compiled for a GPU that is not there.

A stand-in for Triton's driver names the architecture. Each kernel is compiled from the arguments and options of its
real launch, and is not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from dali_pipelines.gpu import kernels
from dali_pipelines.gpu.augment import Tiles, augment
from tests.dali_pipelines.gpu.cases import Case

NAMES = ("sum_luma", "change_colors", "blur_rows", "write_views")


@dataclass
class Launch:
    """A launch that was compiled and not run."""

    name: str
    compiled: Any
    grid: tuple[int, int]
    tensors: list[Tensor]

    @property
    def ptx(self) -> str:
        return str(self.compiled.asm["ptx"])


class _Driver:
    """What Triton asks its driver before it compiles."""

    def __init__(self, architecture: int) -> None:
        self._target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        # Triton keeps compiled kernels by this number. So each architecture has its own.
        return int(self._target.arch)

    def get_current_stream(self, device: int = 0) -> int:
        return 0


class _Recorder:
    """Stands in for a kernel."""

    def __init__(self, name: str, launches: list[Launch]) -> None:
        self._name, self._kernel, self._launches = name, getattr(kernels, name), launches

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        def launch(*tensors: Tensor, **constants: Any) -> None:
            compiled = self._kernel.warmup(*tensors, grid=grid, **constants)
            self._launches.append(Launch(self._name, compiled, grid, list(tensors)))

        return launch


@contextmanager
def _driver_of(architecture: int) -> Iterator[None]:
    before = getattr(triton.runtime.driver, "_active", None)
    triton.runtime.driver.set_active(_Driver(architecture))
    try:
        yield
    finally:
        triton.runtime.driver.set_active(before)


def record(
    case: Case,
    architecture: int,
    dtype: torch.dtype = torch.float32,
    tiles: Tiles = Tiles(),  # noqa: B008
) -> list[Launch]:
    """Return the launches for a case, in order. No kernel has run, so the views are not written.

    Args:
        case: Batch of one view.
        architecture: Architecture of the GPU, such as 90 for sm_90.
        dtype: Type of the views.
        tiles: Work of one program of each kernel.
    """
    launches: list[Launch] = []
    with pytest.MonkeyPatch.context() as patch, _driver_of(architecture):
        for name in NAMES:
            patch.setattr(kernels, name, _Recorder(name, launches))
        pixels = torch.from_numpy(case.pixels)
        augment(pixels, case.table, view=case.params, dtype=dtype, tiles=tiles)
    return launches
