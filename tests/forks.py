"""Modules on one rank or several, which are forked from a process that has imported everything.

An import takes each rank some seconds, and a launcher takes some more. Tests of what ranks do together need neither.
Tests of launchers and of starts use tests.test_launch.launch instead.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Timer

from tests.conftest import REPOSITORY

_STREAMS = ("stdout", "stderr")
_MOST_S = 500
# What a run imports. It takes seconds, which forked runs need not spend.
_IMPORTED = (
    "bt_plugin.training.pretrain",
    "dali_pipelines.native.stream",
    "lightly.utils.benchmarking",
    "matplotlib.figure",
    "timm",
    "torch.utils.tensorboard",
)
_SERVERS: list[subprocess.Popen[str]] = []


def pretrain_on(world_size: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `pretrain` on ranks on the CPU, as `accelerate launch -m bt_plugin pretrain` does.

    Args:
        world_size: Number of ranks.
        arguments: Recipe and overrides.
        environment: Further environment variables.
    """
    return run_forked(world_size, "bt_plugin", "pretrain", *arguments, **environment)


def run_forked(world_size: int, module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module on ranks on the CPU, as `accelerate launch -m MODULE` does.

    If a rank fails, the others are asked to stop, and the exit code is that of the rank that failed first.

    Args:
        world_size: Number of ranks.
        module: Name of the module.
        arguments: Its command line.
        environment: Further environment variables.
    """
    if not _SERVERS or _SERVERS[0].poll() is not None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "tests.forks"]
        server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=REPOSITORY, start_new_session=True)
        _SERVERS[:] = [server]
        atexit.register(_kill, server)
    (server,) = _SERVERS
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        # What recipes/accelerate/cpu*.yaml set.
        launched = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}
        request = {
            "arguments": [module, *arguments],
            "environment": {**os.environ, **launched, **environment},
            "world_size": world_size,
            "folder": folder,
        }
        print(json.dumps(request), file=server.stdin, flush=True)
        timer = Timer(_MOST_S, _kill, [server])
        timer.start()
        answer = server.stdout.readline()
        timer.cancel()
        assert answer, f"the ranks end within {_MOST_S} s"
        texts = [
            "".join((Path(folder) / f"{name}-{rank}").read_text() for rank in range(world_size)) for name in _STREAMS
        ]
    return subprocess.CompletedProcess(request["arguments"], int(answer), *texts)


def _kill(server: subprocess.Popen[str]) -> None:
    """Kill a server and its ranks."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)


def _rank(request: dict, rank: int, port: int) -> int:  # type: ignore[type-arg]
    """Fork one rank, and return its process."""
    if process := os.fork():
        return process
    code = 1
    try:
        for descriptor, name in enumerate(_STREAMS, start=1):
            os.dup2(os.open(f"{request['folder']}/{name}-{rank}", os.O_WRONLY | os.O_CREAT), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(request["environment"])
        if (size := str(request["world_size"])) != "1":
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        sys.argv = request["arguments"]
        runpy.run_module(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        # Not the parent's way out, which would go on with its next request.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _answer(request: dict) -> int:  # type: ignore[type-arg]
    """Run the ranks of a request, and return their exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alive = {_rank(request, rank, port) for rank in range(request["world_size"])}
    first = 0
    while alive:
        process, status = os.wait()
        alive.discard(process)
        if status and not first:
            first = os.waitstatus_to_exitcode(status)
            for other in alive:
                os.kill(other, signal.SIGTERM)
    return first


if __name__ == "__main__":
    for name in _IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        sys.stdout.write(f"{_answer(json.loads(line))}\n")
        sys.stdout.flush()
