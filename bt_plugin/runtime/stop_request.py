"""Handle requests to stop, which schedulers send before they take a machine away."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from bt_plugin.errors import PreemptedError

# EX_TEMPFAIL of sysexits.h: the same command resumes the run.
EXIT_PREEMPTED = 75

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A scheduler and a launcher may both forward the same request.
_ECHO_S = 1.0


class StopRequest:
    """A context that records requests to stop this process, SIGTERM or SIGUSR1. A second request ends it at once.

    Before `defer` is called there is nothing to save, so that a request ends the context at once with PreemptedError.

    The handlers are set in the main thread for the duration of the context. In another thread nothing is recorded. A
    signal that a launcher blocked (see bt_plugin/cli/launch.py) arrives when the context begins.
    """

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._is_deferred = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def is_made(self) -> bool:
        return self._since_s is not None

    def defer(self) -> None:
        """Only record requests from now on. The caller checks `is_made`, and stops by itself."""
        self._is_deferred = True

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in SIGNALS}
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            except PreemptedError:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s
            if not self._is_deferred:
                raise PreemptedError("asked to stop before the first step. Rerun the same command to start")
        elif now_s - self._since_s > _ECHO_S:
            os._exit(128 + number)
