"""Many transfers from web servers at once, by one thread.

A thread for each transfer competes with the threads that decode for the interpreter's lock. On two cores that took a
tenth of the loader's images per second. See benchmarks/LOG.md.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from dali_pipelines.storage.stores import Done

# New requests of other threads wait up to so long while transfers run. Those that follow a transfer start at once.
_PAUSE_S = 0.005
# Connections that are kept for the next requests, of all hosts.
_MOST_CONNECTIONS = 128


class Body:
    """The body of an answer, up to a number of bytes. More is the rest of an object, from a server without ranges."""

    def __init__(self, most: int | None) -> None:
        self.parts: list[bytes] = []
        self.is_cut = False
        self._left = most

    def add(self, part: bytes) -> int:
        """Keep a part, and return how many of its bytes were kept. libcurl closes the connection if not all were."""
        if self._left is not None:
            self.is_cut = len(part) > self._left
            part = part[: self._left]
            self._left -= len(part)
        self.parts.append(part)
        return len(part)

    def content(self) -> bytes:
        """Return the bytes."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


class Transfer(NamedTuple):
    """A request for a range of bytes.

    Args:
        prepare: Function that sets the request's options on a handle, with its body.
        start: Position of the first byte.
        size: Number of bytes.
        done: Function that gets the bytes, or None if they did not arrive.
    """

    prepare: Callable[[Any, Body], None]
    start: int
    size: int
    done: Done


class WebTransfers:
    """A thread that runs transfers. It ends with the program.

    Args:
        new_handle: Function that returns a handle of libcurl.
    """

    def __init__(self, new_handle: Callable[[], Any]) -> None:
        import pycurl

        self._curl = pycurl
        self._new_handle = new_handle
        self._waiting: deque[Transfer] = deque()
        self._is_wanted = threading.Event()
        threading.Thread(target=self._run, name="dali_pipelines_transfers", daemon=True).start()

    def add(self, transfer: Transfer) -> None:
        """Begin a transfer. Its ``done`` is called by the thread, and must not wait."""
        self._waiting.append(transfer)
        self._is_wanted.set()

    def _run(self) -> None:
        multi = self._curl.CurlMulti()
        multi.setopt(self._curl.M_MAXCONNECTS, _MOST_CONNECTIONS)
        free: list[Any] = []
        running: dict[Any, tuple[Transfer, Body]] = {}
        while True:
            while self._waiting:
                transfer = self._waiting.popleft()
                handle = free.pop() if free else self._new_handle()
                body = Body(transfer.size)
                try:
                    transfer.prepare(handle, body)
                except Exception:  # such as a URL with letters that libcurl does not take
                    transfer.done(None)
                    continue
                running[handle] = transfer, body
                multi.add_handle(handle)
            if not running:
                self._is_wanted.wait()
                self._is_wanted.clear()
                continue
            multi.select(_PAUSE_S)
            multi.perform()
            for handle, has_failed in self._ended(multi):
                transfer, body = running.pop(handle)
                status = handle.getinfo(self._curl.RESPONSE_CODE)
                multi.remove_handle(handle)
                handle.unsetopt(self._curl.WRITEFUNCTION)  # the handle would keep the body until its next transfer
                free.append(handle)
                content = body.content()
                is_range = status == 206 or (status == 200 and not transfer.start)
                transfer.done(content if is_range and not has_failed and len(content) == transfer.size else None)

    @staticmethod
    def _ended(multi: Any) -> list[tuple[Any, bool]]:
        """Return the handles whose transfers have ended, and whether they failed."""
        ended: list[tuple[Any, bool]] = []
        more = 1
        while more:
            more, good, bad = multi.info_read()
            ended += [(handle, False) for handle in good]
            ended += [(handle, True) for handle, _, _ in bad]
        return ended
