"""Run the kernels on a CPU, by Triton's interpreter, and print how many values differ from the native kernel's.

It is a program, because TRITON_INTERPRET must be set before Triton is imported.
"""

from __future__ import annotations

import json
import sys

import torch

from dali_pipelines.gpu.augment import Tiles, augment
from tests.dali_pipelines.gpu.cases import CASES, Case

# Several tiles in each direction, of which the last are not full.
SMALL = Tiles(pixels=512, values=1024, lines=16, line_values=64, warps=4)


def differing(case: Case, tiles: Tiles, dtype: torch.dtype = torch.float32) -> int:
    pixels = torch.from_numpy(case.pixels.copy())
    got = augment(pixels, case.table, view=case.params, dtype=dtype, tiles=tiles)
    expected = torch.from_numpy(case.expected()).to(dtype)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert got.shape == expected.permute(0, 3, 1, 2).shape
    assert torch.equal(pixels, torch.from_numpy(case.pixels)), "the pixels are only read"
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    return int((got.permute(0, 2, 3, 1).contiguous().view(bits) != expected.view(bits)).sum())


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for name, case in CASES.items():
        found[name] = differing(case, SMALL if case.params.size_px == 33 else Tiles())
    found["float16"] = differing(CASES["3 channels to 1"], Tiles(), torch.float16)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
