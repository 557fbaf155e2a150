"""Whether the batches that are made ahead fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import psutil
import torch

from dali_pipelines.ranks import number_from_environment
from dali_pipelines.views.params import EvalParams, ViewParams

_FLOAT32_BYTES = 4
# The one that is being used, and the one that is being made.
_MORE_BATCHES = 2


def check_memory(
    views: Sequence[ViewParams | EvalParams], *, samples: int, prefetch: int, device: Literal["cpu", "gpu"]
) -> None:
    """Refuse batches that this process's share of the memory cannot hold.

    Args:
        views: Of each sample.
        samples: Of a batch.
        prefetch: Batches made ahead.
        device: Where they are stored.

    Raises:
        ValueError: If they need more than is free; on a GPU, than it has.
    """
    batch = samples * sum(_FLOAT32_BYTES * view.channels * view.size_px**2 for view in views)
    needed = batch * (prefetch + _MORE_BATCHES)
    if device == "gpu":
        free = torch.cuda.mem_get_info()[1]
    else:
        free = psutil.virtual_memory().available // number_from_environment("LOCAL_WORLD_SIZE", 1, least=1)
    if needed <= free:
        return
    most = free // batch - _MORE_BATCHES
    remedy = f"take a prefetch of at most {most}" if most >= 1 else "take a smaller batch or smaller views"
    raise ValueError(
        f"prefetch: {prefetch} batches of {samples} samples, and {_MORE_BATCHES} more in use, need"
        f" {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free for this process; {remedy}"
    )
