"""Runs a function on several real processes joined by gloo."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Each rank's function(rank, *arguments), by rank. The function must be importable."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (world_size, folder, function, arguments), nprocs=world_size)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _rank(rank: int, world_size: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world_size,
        # Ranks that wait for each other fail instead of hanging.
        timeout=timedelta(seconds=60),
    )
    try:
        torch.save(function(rank, *arguments), Path(folder) / f"{rank}.pt")
        # Nothing that a cycle holds, such as a DistributedDataParallel, is left to end after its group.
        gc.collect()
        # With torch 2.7 a rank that leaves early can leave the others waiting in the next line.
        distributed.barrier()
    finally:
        distributed.destroy_process_group()
