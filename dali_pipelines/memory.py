"""Check that the batches that are computed ahead fit into memory."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import torch

from dali_pipelines.backend import ResolvedBackend
from dali_pipelines.ranks import number_from_environment
from dali_pipelines.views.params import EvalParams, ViewParams

_FLOAT32_BYTES, _UINT8_BYTES = 4, 1
# The batch that is in use, and the batch that is being computed.
_MORE_BATCHES = 2


def check_memory(
    views: Sequence[ViewParams | EvalParams], *, samples: int, backend: ResolvedBackend, in_float: bool = False
) -> None:
    """Raise if the batches need more memory than this process can have.

    Args:
        views: Views of each sample.
        samples: Number of samples per batch.
        backend: Backend that computes the views. On a GPU, the native backend has its batches in the host's memory.
        in_float: Whether the views are computed in float32. Otherwise those that are sent to a GPU are uint8.

    Raises:
        ValueError: If the batches need more than this process's share of the free memory; on a GPU, more than all of
            its memory.
    """
    to_gpu = backend.device == "gpu" and backend.name == "native"
    value_bytes = _UINT8_BYTES if to_gpu and not in_float else _FLOAT32_BYTES
    batch = samples * sum(value_bytes * view.channels * view.size_px**2 for view in views)
    needed = batch * (backend.prefetch + _MORE_BATCHES)
    if backend.device == "gpu" and not to_gpu:
        free = torch.cuda.mem_get_info()[1]
    else:
        free = psutil.virtual_memory().available // number_from_environment("LOCAL_WORLD_SIZE", 1, least=1)
    if needed <= free:
        return
    most = free // batch - _MORE_BATCHES
    remedy = f"use a prefetch of at most {most}" if most >= 1 else "use a smaller batch or smaller views"
    raise ValueError(
        f"prefetch: {backend.prefetch} batches of {samples} samples, and {_MORE_BATCHES} more in use, need"
        f" {needed / 2**30:.1f} GiB of memory, but only {free / 2**30:.1f} GiB are free for this process; {remedy}"
    )
