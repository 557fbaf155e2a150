"""The compiled kernels' PTX, executed with NumPy, against the native kernel. No GPU is needed.

It shows what the interpreter cannot: rounding to bfloat16, fused arithmetic, layouts of threads, and races between
blocks, which run in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

pytest.importorskip("triton", reason="Triton comes with torch's CUDA wheels for Linux only")

from tests.dali_pipelines.gpu.cases import FIVE, NO_COLORS, Case, in_all_orders
from tests.dali_pipelines.gpu.ptx import Block
from tests.dali_pipelines.gpu.ptx_program import Program
from tests.dali_pipelines.gpu.recorded import Launch, record

pytestmark = pytest.mark.slow

# Between two tensors, so that a kernel that writes behind its tensor is found.
GAP = 256


def execute(launches: list[Launch]) -> Tensor:
    """Run the launches one after the other, and return the views."""
    tensors = {tensor.data_ptr(): tensor for launch in launches for tensor in launch.tensors}
    pixels, table = launches[-1].tensors[0], launches[-1].tensors[2]
    places, end = {}, GAP
    for pointer, tensor in tensors.items():
        places[pointer] = end
        end += -(-tensor.nbytes // GAP) * GAP + GAP
    # Memory that no kernel has written holds NaN.
    memory = np.full(end, 0xFF, dtype=np.uint8)
    may_change = np.zeros(end, dtype=bool)
    for pointer, tensor in tensors.items():
        place = slice(places[pointer], places[pointer] + tensor.nbytes)
        if tensor is pixels or tensor is table:
            memory[place] = tensor.numpy().view(np.uint8).ravel()
        else:
            may_change[place] = True
    before = memory.copy()
    for launch in launches:
        program = Program(launch.ptx)
        parameters = [places[tensor.data_ptr()] for tensor in launch.tensors]
        for block in _in_any_order(launch.grid):
            Block(program, memory, parameters, block).run(launch.grid)
    assert (memory == before)[~may_change].all(), "only outputs are written"
    views = launches[-1].tensors[-1]
    place = places[views.data_ptr()]
    return torch.from_numpy(memory[place : place + views.nbytes]).view(views.dtype).reshape(views.shape)


def _in_any_order(grid: tuple[int, int]) -> NDArray[Any]:
    blocks = np.stack(np.meshgrid(*map(np.arange, grid)), axis=-1).reshape(-1, 2)
    return np.random.default_rng(0).permutation(blocks)


CASES: dict[str, tuple[Case, int, torch.dtype]] = {
    "all orders, odd size": (Case(24, {}, change=in_all_orders), 90, torch.float32),
    "radius up to S - 1": (Case(15, {"size_px": 8, "blur_sigma_px": (0.1, 9.0)}), 80, torch.float32),
    "even size": (Case(10, {"size_px": 32}), 100, torch.float32),
    "bfloat16": (Case(8, {"size_px": 32}), 90, torch.bfloat16),
    "float16": (Case(5, {"size_px": 32}), 90, torch.float16),
    "full size, vectors": (Case(2, {"size_px": 224}), 90, torch.float32),
    "hue in YIQ": (Case(8, {"size_px": 32, "hue_space": "yiq"}), 90, torch.float32),
    "3 channels to 1": (Case(6, {"size_px": 20, "channels": 1}), 90, torch.float32),
    "5 channels": (Case(5, {"size_px": 20, **FIVE, **NO_COLORS}, channels=5), 100, torch.float32),
}


@pytest.mark.parametrize("name", CASES)
def test_views_are_those_of_the_native_kernel(name: str) -> None:
    case, architecture, dtype = CASES[name]
    got = execute(record(case, architecture, dtype))
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(got.view(bits), torch.from_numpy(case.expected()).to(dtype).view(bits))
