"""Commands that die at a chosen moment. Each life is a fork.

python -m tests.mortal SCENARIO.json, with {"arguments", "folder", "world_size", "deaths"}. Each number in deaths is a
life: SIGKILL comes to rank 0 at that many changes of files in the run's folder. The life after them is left alone; one
that is not killed must succeed. SCENARIO.killed says how many were.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from bt_plugin.cli import main

_CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def run(arguments: list[str], folder: Path, rank: int, world_size: int, port: int, dies_at: int | None) -> int:
    """One rank in a process of its own; returns the process."""
    if process := os.fork():
        return process
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    changes = 0

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal changes
        if event not in _CHANGES or not isinstance(values[0], (str, bytes, os.PathLike)):
            return
        if event == "open" and not (set(values[1] or "") & set("wax+") or values[2] & _TO_WRITE):
            return
        if Path(os.fsdecode(values[0])).is_relative_to(folder):
            changes += 1
            if changes == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if dies_at is not None:
        sys.addaudithook(hook)
    # Not the parent's way out, which is pytest's or the interpreter's.
    code = 1
    try:
        code = main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def group(arguments: list[str], folder: Path, world_size: int, dies_at: int | None) -> bool:
    """Whether the run was killed; ranks that are left are then killed too, as launchers do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [run(arguments, folder, rank, world_size, port, None if rank else dies_at) for rank in range(world_size)]
    alive = set(ranks)
    killed = False
    while alive:
        process, status = os.wait()
        alive.discard(process)
        if status and not killed:
            killed = True
            assert os.WIFSIGNALED(status), f"a rank failed with {os.waitstatus_to_exitcode(status)}"
            for other in alive:
                os.kill(other, signal.SIGKILL)
    return killed


if __name__ == "__main__":
    scenario = json.loads(Path(sys.argv[1]).read_text())
    killed = [
        group(scenario["arguments"], Path(scenario["folder"]), scenario["world_size"], dies_at)
        for dies_at in [*scenario["deaths"], None]
    ]
    assert not killed[-1], "the last run is left alone"
    Path(sys.argv[1]).with_suffix(".killed").write_text(str(sum(killed)))
