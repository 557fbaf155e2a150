"""Run the product in its own process: forked, limited, watched, and killed after its time."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

_MOST_DATA = 8 << 30


@dataclass
class Result:
    """The result of a process of the product."""

    code: int
    out: str
    err: str
    seconds: float
    peak_mb: float
    hung: bool
    value: Any = None

    @property
    def message(self) -> str:
        """The message of the product about the input."""
        return re.split(r"(?m)^error: ", self.err, maxsplit=1)[-1]

    @property
    def tail(self) -> str:
        return repr(self.err[-300:])


@dataclass(frozen=True)
class Raised:
    """An exception that the product's public Python names raised."""

    kind: str
    message: str
    promised: bool


def attempted(function: Callable[[], Any]) -> Any:
    """The result of a call: its value, or how the process ended."""
    try:
        return function()
    except Exception as error:
        return Raised(type(error).__name__, str(error), isinstance(error, (ValueError, OSError)))


class Process:
    """A process of the product, in its own process group."""

    def __init__(
        self,
        folder: Path,
        body: Callable[[], None],
        *,
        env: dict[str, str | None],
        powerless: bool,
        cwd: Path,
        preparation: Callable[[], object] | None = None,
    ) -> None:
        self._logs = [folder.parent / f"{name}-{time.monotonic_ns()}" for name in ("out", "err")]
        for path in self._logs:
            path.touch()
            path.chmod(0o666)
        self._begun_s = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(folder, body, self._logs, env, powerless, cwd, preparation)
        with suppress(OSError):
            os.setpgid(self.pid, self.pid)

    def wait(self, limit: float = 60) -> Result:
        """Return the result. The process is killed after `limit` seconds."""
        hung = False
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if not hung and time.monotonic() - self._begun_s > limit * _patience():
                hung = True
                self.kill()
            time.sleep(0.01)
        self.kill()
        out, err = (path.read_bytes().decode("utf-8", "surrogateescape") for path in self._logs)
        seconds = time.monotonic() - self._begun_s
        return Result(os.waitstatus_to_exitcode(status), out, err, seconds, usage.ru_maxrss / 1024, hung)

    def kill(self) -> None:
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def until(self, is_so: Callable[[], bool], limit: float = 30) -> None:
        """Wait until a condition holds, while the process runs."""
        deadline_s = time.monotonic() + limit
        while not is_so():
            if time.monotonic() > deadline_s or not _is_running(self.pid):
                return
            time.sleep(0.005)

    def has_open(self, name: str) -> bool:
        """Return whether the process has a file of this name open."""
        with suppress(OSError):
            for entry in os.scandir(f"/proc/{self.pid}/fd"):
                with suppress(OSError):
                    if name in os.readlink(entry.path):
                        return True
        return False


def _patience() -> float:
    """Return the factor by which everything takes longer because other programs use the cores."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)) / 2)


def _is_running(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _become(
    folder: Path,
    body: Callable[[], None],
    logs: list[Path],
    env: dict[str, str | None],
    powerless: bool,
    cwd: Path,
    preparation: Callable[[], object] | None,
) -> NoReturn:
    """Prepare the new process, and run the action in it."""
    code = 1
    try:
        os.setpgid(0, 0)
        # A process that a shell starts in the background ignores Ctrl-C. Undo that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: dies with its parent
        _redirect(logs)
        home = folder.parent / "home"
        home.mkdir(exist_ok=True)
        home.chmod(0o777)
        os.environ.update(HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"), COLUMNS="200")
        for name, value in env.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (_MOST_DATA, _MOST_DATA))
        os.chdir(cwd)
        if preparation:
            preparation()
        if powerless:
            _give_up_rights()
        body()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _give_up_rights() -> None:
    """Drop root's capabilities, which ignore permissions. Unlike another user, root can still read Python's files."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP, for the processes that it starts
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def _redirect(logs: list[Path]) -> None:
    for number, path in enumerate([Path("/dev/null"), *logs]):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
