"""Run a loader's stream with DALI's graph cut after the resize, and the kernels interpreted, and save its views.

It is a program, because TRITON_INTERPRET must be set before Triton is imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dali_pipelines import PRESETS, Backend
from dali_pipelines.plans import Plan
from dali_pipelines.sources import open_source
from dali_pipelines.streams import view_stream
from dali_pipelines.views.draws import draw_views
from tests.dali_pipelines.gpu.cases import natively

N = 6
BATCHES = 2
LEVELS = 255 * 0.226


def compared(data: str, preset: str, changes: dict[str, Any]) -> dict[str, float]:
    """Compare the views with those of DALI's whole graph, and with the native kernel on the same crops."""
    views = PRESETS[preset].changed(**changes).views[:2]
    source = open_source(Path(data))
    dali = Backend("dali", device="cpu", num_threads=1).resolve()

    def plans() -> Any:
        for step in range(BATCHES):
            yield Plan(np.arange(step * N, step * N + N), draw_views(views, N, step))

    whole = view_stream(source, views, plans=plans(), batch_size=N, backend=dali)
    fused = view_stream(source, views, plans=plans(), batch_size=N, backend=dali._replace(augment="fused"))
    crops = view_stream(source, views, plans=plans(), batch_size=N, backend=dali._replace(augment="fused"))
    crops._finish = lambda plan, outputs: outputs  # type: ignore[union-attr]
    bits, differences = 0, []
    for (plan, expected), (_, got), (_, pixels) in zip(whole, fused, crops, strict=True):
        for number, view in enumerate(views):
            assert pixels[number].dtype == torch.uint8
            native = torch.from_numpy(natively(pixels[number].numpy(), plan.draws[number], view)).permute(0, 3, 1, 2)
            assert got[number].is_contiguous(memory_format=torch.channels_last)
            bits += int((_bits(got[number]) != _bits(native)).sum())
            differences.append((expected[number] - got[number]).abs() * LEVELS)
    found = torch.stack(differences)
    assert len(found) == BATCHES * len(views)
    return {"bits": bits, "mean": float(found.mean()), "largest": float(found.max())}


def _bits(views: Tensor) -> Tensor:
    return views.contiguous().view(torch.int32)


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump(compared(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])), sys.stdout)
