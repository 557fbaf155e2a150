"""Keep decoded groups of images in memory, and let several threads use them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar


class DecodedGroup(Protocol):
    """A group of images that was decoded."""

    @property
    def n_bytes(self) -> int:
        """Number of bytes that the group needs in memory."""

    @property
    def is_whole(self) -> bool:
        """Whether all of it could be decoded. Otherwise it is not kept, because the next attempt may succeed."""


Group = TypeVar("Group", bound=DecodedGroup)


class GroupCache(Generic[Group]):
    """A cache of the groups that were used last. Threads that ask for one group at the same time decode it once.

    Groups that are in use are not counted after they have left the cache. So the memory is at most that of the cache,
    plus one or two groups for each thread.

    Args:
        decode: Function that decodes the group with a given number.
        most_bytes: Largest number of bytes that are kept. The last group is kept even if it is larger.
    """

    def __init__(self, decode: Callable[[int], Group], most_bytes: int) -> None:
        self._decode = decode
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, Future[Group]] = OrderedDict()
        self._n_bytes = 0

    def __contains__(self, number: int) -> bool:
        """Return whether a group is kept, or is decoded at the moment."""
        return number in self._groups

    def get(self, number: int) -> Group:
        """Return a group, decoded now or before.

        Args:
            number: Number of the group.

        Raises:
            Exception: Whatever the decoding raises, in each thread that waits for the group.
        """
        with self._lock:
            future = self._groups.get(number)
            is_mine = future is None
            if future is None:
                future = self._groups[number] = Future()
            self._groups.move_to_end(number)
        if is_mine:
            self._fill(number, future)
        return future.result()

    def _fill(self, number: int, future: Future[Group]) -> None:
        try:
            group = self._decode(number)
        except BaseException as error:
            with self._lock:
                del self._groups[number]
            future.set_exception(error)
            return
        with self._lock:
            if group.is_whole:
                self._n_bytes += group.n_bytes
            else:
                del self._groups[number]
            future.set_result(group)
            complete = [other for other, each in self._groups.items() if each.done()]
            for other in complete[:-1]:
                if self._n_bytes <= self._most_bytes:
                    break
                self._n_bytes -= self._groups.pop(other).result().n_bytes
