"""Start ranks and mount small disks, for several kinds of tries."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostile_cases import Place
from hostile_cases_process import Result


def ranks(place: Place, count: int, *arguments: object, limit: float = 90, **options: Any) -> list[Result]:
    """Run a command on this number of ranks, which are processes of this machine."""
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    env |= {"LOCAL_WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    started = [
        place.start(*arguments, env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options)
        for rank in range(count)
    ]
    return [process.wait(limit) for process in started]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def small_disk(place: Place, size_kb: int) -> Iterator[Path]:
    """Mount a small file system. This needs root."""
    folder = place.folder / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
