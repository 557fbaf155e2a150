"""Fetch announced ranges ahead of their use, many at once, and hand them over when they are read."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import lru_cache, partial
from typing import NamedTuple

from dali_pipelines.errors import StorageError
from dali_pipelines.storage.cache import Cache, cache_of, key_of
from dali_pipelines.storage.eviction import UNKNOWN
from dali_pipelines.storage.options import Storage
from dali_pipelines.storage.stores import Range
from dali_pipelines.storage.transfers import fetch, start

# Requests at the same time. With 100 ms for each, 64 fetch 600 images/s, about what two cores decode.
IN_FLIGHT = 64
# Images that a source wants to know ahead of their use: a second or more of training on a GPU.
IMAGES_AHEAD = 512
# Bytes that are fetched and not yet read. 512 photographs have about 60 MiB.
MOST_BYTES_AHEAD = 2**28
# Images are read in the order in which they were announced, apart from what threads read at the same time. A range
# whose image was announced so many images before the one that is read will not be read: a loader has begun at another
# batch.
_MOST_OUT_OF_ORDER = 4096
# Steps that ranks may be apart, with the batches that their backends compute ahead.
_STEPS_APART = 8
# The size that an object of unknown size is taken to have until it is there.
_GUESSED_BYTES = 2**18


# After a failure of the storage, ranges fail at once for so long, unless a loader starts again. The threads of a stream
# still have work that nothing waits for, and would hold up the end of the program with their own tries.
_AWAY_S = 5.0


class Use(NamedTuple):
    """A range that is used soon.

    Args:
        wanted: Range.
        next_use: Number of the use after that, counted over all epochs.
    """

    wanted: Range
    next_use: int


class _Task:
    """An announced range. It is fetched once, by a thread of the pool or by the reader that needs it first."""

    def __init__(self, use: Use, number: int) -> None:
        self.use = use
        self.number = number
        self.content: Future[bytes] = Future()
        self.is_started = False
        self.is_dropped = False
        self.bytes = use.wanted.size or _GUESSED_BYTES


class ReadAhead:
    """Ranges of objects, fetched ahead of their use and kept in the cache.

    Args:
        options: Folder and size of the cache.
        fetched: Function that fetches a range, and waits for it. Default: the stores, which may also fetch without a
            thread that waits.
        images_ahead: Number of images that are announced ahead of their use, 1 or more.
    """

    def __init__(
        self, options: Storage, fetched: Callable[[Range], bytes] | None = None, *, images_ahead: int = IMAGES_AHEAD
    ) -> None:
        parts = max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
        part = min(parts - 1, int(os.environ.get("LOCAL_RANK") or 0))
        self.cache: Cache | None = cache_of(options, part, parts)
        self._fetched = fetched or fetch
        # A cache waits for its disk, so it needs a thread for each range.
        self._needs_no_thread = fetched is None and self.cache is None
        self._images_ahead = images_ahead
        self._lock = threading.Lock()
        self._tasks: dict[Range, _Task] = {}
        self._waiting: deque[_Task] = deque()
        self._running = 0
        self._bytes_ahead = 0
        self._first_use = -1
        self._announced = 0
        self._away: tuple[StorageError, float] | None = None
        # Uses of other ranges. They are noted later, when those have been read.
        self._others: deque[tuple[int, Sequence[Use]]] = deque()

    def announce(self, mine: Sequence[Use], others: Sequence[Use], *, first_use: int, uses: int, own_uses: int) -> None:
        """Begin to fetch the ranges of a batch.

        Args:
            mine: Ranges that this rank will read, in order; one for each image, or fewer.
            others: Other ranges that are used in the same step, by other ranks or from memory.
            first_use: Number of the first use of the step, over all epochs and ranks.
            uses: Number of images of the step, of all ranks.
            own_uses: Number of this rank's images of the step.
        """
        with self._lock:
            self._away = None
            if first_use <= self._first_use:
                # A loader starts again at an earlier batch.
                self._drop_before(self._announced)
                self._others.clear()
            self._first_use = first_use
            for number, use in enumerate(mine, self._announced):
                if use.wanted not in self._tasks:
                    task = self._tasks[use.wanted] = _Task(use, number)
                    self._waiting.append(task)
            self._announced += own_uses
            self._start_some()
        self._note_others(others, first_use, (-(-self._images_ahead // max(1, own_uses)) + _STEPS_APART) * uses)

    def read(self, wanted: Range) -> bytes:
        """Return the bytes of a range. A range that was not announced is fetched now.

        Args:
            wanted: Range.

        Raises:
            FileNotFoundError: If the object does not exist.
            StorageError: If the store does not answer.
        """
        with self._lock:
            if self._away is not None and time.monotonic() < self._away[1]:
                raise self._away[0]
            task = self._tasks.pop(wanted, None)
            is_started = task is not None and task.is_started
            if task is not None:
                task.is_started = True
                self._drop_before(task.number - _MOST_OUT_OF_ORDER)
        if task is None:
            return self._load(Use(wanted, UNKNOWN), Future())
        if not is_started:
            return self._load(task.use, task.content)
        try:
            return task.content.result()
        finally:
            with self._lock:
                self._bytes_ahead -= task.bytes
                task.bytes = 0
                task.is_dropped = True
                self._start_some()

    def _start_some(self) -> None:
        while self._waiting and self._running < IN_FLIGHT:
            task = self._waiting[0]
            if not task.is_started:
                if self._bytes_ahead and self._bytes_ahead + task.bytes > MOST_BYTES_AHEAD:
                    return
                task.is_started = True
                self._running += 1
                self._bytes_ahead += task.bytes
                if not (self._needs_no_thread and start(task.use.wanted, partial(self._received, task))):
                    _pool().put(partial(self._run, task))
            self._waiting.popleft()

    def _received(self, task: _Task, content: bytes | None) -> None:
        """Hand over the bytes of a range. After a failure, a thread fetches it patiently."""
        if content is None:
            _pool().put(partial(self._run, task))
            return
        task.content.set_result(content)
        self._ended(task, len(content))

    def _run(self, task: _Task) -> None:
        try:
            content = self._load(task.use, task.content)
            size = len(content)
        except BaseException:  # the reader gets it from the future
            size = 0
        self._ended(task, size)

    def _ended(self, task: _Task, size: int) -> None:
        with self._lock:
            self._running -= 1
            if not task.is_dropped:
                self._bytes_ahead += size - task.bytes
                task.bytes = size
            self._start_some()

    def _load(self, use: Use, result: Future[bytes]) -> bytes:
        """Return the bytes of a range, from the cache or fetched and kept, and set them as the result."""
        try:
            content = self._cached(use) if self.cache else self._fetched(use.wanted)
        except BaseException as error:
            if isinstance(error, StorageError):
                with self._lock:
                    self._away = error, time.monotonic() + _AWAY_S
            result.set_exception(error)
            raise
        result.set_result(content)
        return content

    def _cached(self, use: Use) -> bytes:
        cache = self.cache
        assert cache, "only called with a cache"
        key = key_of(use.wanted)
        content = cache.get(key)
        if content is None:
            with cache.alone(key):
                # Another rank may have fetched it while this one waited.
                content = cache.get(key) if cache.is_shared else None
                if content is None:
                    content = self._fetched(use.wanted)
                    cache.put(key, content, use.next_use)
                    return content
        cache.plan(key, use.next_use)
        return content

    def _note_others(self, others: Sequence[Use], first_use: int, later: int) -> None:
        """Note the uses of other ranges, so many uses later, when they have been read."""
        if self.cache is None:
            return
        if others:
            self._others.append((first_use, others))
        while self._others and self._others[0][0] + later < first_use:
            for use in self._others.popleft()[1]:
                self.cache.plan(key_of(use.wanted), use.next_use)

    def _drop_before(self, number: int) -> None:
        """Forget the ranges that were announced before the one with a number, and are not read."""
        while self._tasks and (oldest := next(iter(self._tasks.values()))).number < number:
            del self._tasks[oldest.use.wanted]
            if oldest.is_started:
                self._bytes_ahead -= oldest.bytes
            oldest.is_started = oldest.is_dropped = True


class _Pool:
    """Threads that never end, so that a request that is tried again does not hold up the end of the program."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        for number in range(IN_FLIGHT):
            threading.Thread(target=self._run, name=f"dali_pipelines_fetch_{number}", daemon=True).start()

    def put(self, work: Callable[[], None]) -> None:
        self._work.put(work)

    def _run(self) -> None:
        while True:
            work = self._work.get()
            work()
            del work


@lru_cache(maxsize=1)
def _pool() -> _Pool:
    return _Pool()
