"""Run a function on several real processes joined by gloo, which stay for the next test, as in Lightly's suite."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

_CONTEXT = multiprocessing.get_context("spawn")


class _Rank:
    """A process that runs one function after another, each in a process group of its own."""

    def __init__(self) -> None:
        self.connection, theirs = _CONTEXT.Pipe()
        # Ends with the process that started it.
        self.process = _CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()


_RANKS: list[_Rank] = []


def run_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Each rank's function(rank, *arguments), by rank.

    Args:
        world_size: Number of ranks.
        function: Importable. It must leave nothing behind in its process.
        arguments: What it is called with after the rank.
    """
    while len(_RANKS) < world_size:
        _RANKS.append(_Rank())
    with tempfile.TemporaryDirectory() as folder:
        ranks = _RANKS[:world_size]
        for number, rank in enumerate(ranks):
            rank.connection.send((number, world_size, folder, function, arguments))
        waiting = [rank.connection for rank in ranks]
        while waiting:
            for connection in wait(waiting):
                assert isinstance(connection, Connection)
                error = _error_of(connection)
                if error is not None:
                    # The other ranks wait for this one.
                    for rank in _RANKS:
                        rank.process.kill()
                    _RANKS.clear()
                    raise AssertionError(error)
                waiting.remove(connection)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _error_of(connection: Connection) -> str | None:
    try:
        error: str | None = connection.recv()
    except EOFError:
        return "a rank's process ended"
    return error


def _serve(connection: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            _rank(*job)
        except BaseException:
            connection.send(traceback.format_exc())
        else:
            connection.send(None)


def _rank(rank: int, world_size: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.manual_seed(0)
    environment = dict(os.environ)
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
        if "accelerate" in sys.modules:
            from accelerate.state import AcceleratorState, PartialState

            AcceleratorState._reset_state()
            PartialState._reset_state()
        # The next test in this process must not be launched as this one was.
        os.environ.clear()
        os.environ.update(environment)
