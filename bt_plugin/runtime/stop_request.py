"""A polite request to stop: what schedulers send before they take a machine away."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from bt_plugin.errors import PreemptedError

# sysexits.h's EX_TEMPFAIL: the same line, started again, goes on.
EXIT_PREEMPTED = 75

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A scheduler and a launcher may both pass on one request.
_ECHO_S = 1.0


class StopRequest:
    """Notes that this process was asked to stop, by SIGTERM or SIGUSR1; a second request ends it at once.

    Until `defer` is called there is nothing to save, and the request ends the context at once with PreemptedError.

    Handlers are those of the main thread, while the context lasts; elsewhere nothing is noted. What a launcher
    blocked (see bt_plugin/cli/launch.py) arrives then.
    """

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._is_deferred = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def is_made(self) -> bool:
        return self._since_s is not None

    def defer(self) -> None:
        """Note requests from now on, because who asks for `is_made` stops by itself."""
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
                raise PreemptedError("asked to stop before the first step; rerun the same command to start")
        elif now_s - self._since_s > _ECHO_S:
            os._exit(128 + number)
