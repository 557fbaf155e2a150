"""Keep fetched ranges on the disk, one file each, for all ranks of a host.

A file is named after its URL, version and range. It ends with the number of its bytes, so a file that was not wholly
written is found. Each rank counts and removes the files that it wrote, and its share of those that were there before.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from dali_pipelines.errors import StorageError
from dali_pipelines.storage.eviction import UNKNOWN, Planned
from dali_pipelines.storage.options import Storage
from dali_pipelines.storage.stores import Range

logger = logging.getLogger(__name__)

_LENGTH_BYTES = 8
_KEY_BYTES = 16
_UNFINISHED = ".part"
# No range takes so long to write.
_ABANDONED_S = 3600.0
# Ranks that want the same range wait for each other at one of so many locks.
_LOCKS = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)
_numbers = itertools.count()


class Cache:
    """The part of the cache that this rank counts, and a view of all of it.

    Args:
        folder: Folder of the cache. It is created.
        most_bytes: Largest size of this rank's part, in bytes.
        part: Number of this rank on its host, 0 to parts - 1.
        parts: Number of ranks on the host.

    Raises:
        ValueError: If the folder cannot be written.
    """

    def __init__(self, folder: Path, most_bytes: int, *, part: int = 0, parts: int = 1) -> None:
        self._folder = folder
        self._entries = Planned(most_bytes)
        self._part, self._parts = part, parts
        self._lock = threading.Lock()
        try:
            for number in range(256):
                os.makedirs(folder / f"{number:02x}", exist_ok=True)
            self._take_over()
        except OSError as error:
            raise ValueError(
                f"the cache {folder} cannot be written ({error.strerror}); set another folder with"
                " data.cache_dir, or data.cache_gib=0 for no cache"
            ) from error

    @property
    def is_shared(self) -> bool:
        """Whether other ranks of the host use the cache too."""
        return self._parts > 1

    @property
    def held_bytes(self) -> int:
        """Size of this rank's part, in bytes."""
        with self._lock:
            return self._entries.held_bytes

    def get(self, key: bytes) -> bytes | None:
        """Return the bytes of a range, or None if no rank has kept it.

        Args:
            key: Key of the range (see key_of).
        """
        try:
            with open(self._path(key), "rb", buffering=0) as file:
                content = file.read()
        except OSError:  # another rank may remove it at any time
            return None
        size = len(content) - _LENGTH_BYTES
        if size < 0 or int.from_bytes(content[size:], "little") != size:
            self._remove([key])
            return None
        return content[:size]

    def put(self, key: bytes, content: bytes, use: int = UNKNOWN) -> None:
        """Keep the bytes of a range, unless all that would go for it are used sooner.

        Args:
            key: Key of the range (see key_of).
            content: Bytes of the range.
            use: Number of the range's next use.

        Raises:
            StorageError: If the disk is full and nothing is left to remove.
        """
        size = len(content) + _LENGTH_BYTES
        with self._lock:
            if key in self._entries:
                self._entries.plan(key, use)
                return
            gone = self._entries.room(size, use)
            if gone is None:
                return
            self._entries.add(key, size, use)
        self._remove(gone)
        try:
            self._write(key, content)
        except BaseException:
            with self._lock:
                self._entries.remove(key)
            raise

    def plan(self, key: bytes, use: int) -> None:
        """Note when a range is used next. Ranges that another rank counts are ignored.

        Args:
            key: Key of the range.
            use: Number of its next use.
        """
        with self._lock:
            self._entries.plan(key, use)

    @contextmanager
    def alone(self, key: bytes) -> Iterator[None]:
        """Let one rank of the host at a time fetch a range.

        The lock is the operating system's: it ends with the process. Where there are no such locks, no rank waits.

        Args:
            key: Key of the range.
        """
        if self._parts == 1:
            yield
            return
        descriptor = os.open(self._lock_path(key), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                logger.debug("no locks in %s: %s", self._folder, error)
            yield
        finally:
            os.close(descriptor)

    def _lock_path(self, key: bytes) -> str:
        return f"{self._folder}/{key[:1].hex()}/{int.from_bytes(key[1:3], 'little') % (_LOCKS // 256)}.lock"

    def _path(self, key: bytes) -> str:
        name = key.hex()
        return f"{self._folder}/{name[:2]}/{name[2:]}"

    def _write(self, key: bytes, content: bytes) -> None:
        path = self._path(key)
        unfinished = f"{path}.{os.getpid()}-{next(_numbers)}{_UNFINISHED}"
        while True:
            try:
                with open(unfinished, "wb", buffering=0) as file:
                    for piece in (content, len(content).to_bytes(_LENGTH_BYTES, "little")):
                        view = memoryview(piece)
                        while view:
                            view = view[file.write(view) :]
                os.replace(unfinished, path)
                return
            except OSError as error:
                _unlink(unfinished)
                with self._lock:
                    worst = self._entries.worst() if error.errno in _FULL else None
                    is_last = not self._entries
                if worst is None or (worst == key and is_last):
                    raise StorageError(
                        f"{self._folder}: a fetched range cannot be kept: {error.strerror}; free space, set another"
                        " data.cache_dir, or set data.cache_gib=0 for no cache"
                    ) from error
                if worst == key:
                    return  # all others are used sooner
                self._remove([worst])

    def _remove(self, keys: list[bytes]) -> None:
        for key in keys:
            _unlink(self._path(key))
            with self._lock:
                self._entries.remove(key)

    def _take_over(self) -> None:
        """Count this rank's share of the files that are there. Unfinished ones of a process that died are removed."""
        begun_s = time.time()
        for number in range(self._part, 256, self._parts):
            for entry in os.scandir(self._folder / f"{number:02x}"):
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:  # another process has removed it
                    continue
                if entry.name.endswith(_UNFINISHED):
                    if begun_s - status.st_mtime > _ABANDONED_S:
                        _unlink(entry.path)
                elif len(entry.name) == 2 * _KEY_BYTES - 2:
                    key = bytes.fromhex(f"{number:02x}{entry.name}")
                    if self._entries.room(status.st_size, UNKNOWN) is None:
                        _unlink(entry.path)  # the cache is smaller than it was
                    else:
                        self._entries.add(key, status.st_size)


def key_of(wanted: Range) -> bytes:
    """Return the key of a range, 16 bytes."""
    text = f"{wanted.url}\0{wanted.version}\0{wanted.start}\0{wanted.size}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=_KEY_BYTES).digest()


@lru_cache(maxsize=8)
def cache_of(options: Storage, part: int, parts: int) -> Cache | None:
    """Return the cache of a process; sources with the same options share it.

    Args:
        options: Folder and size of the cache.
        part: Number of this rank on its host, 0 to parts - 1.
        parts: Number of ranks on the host.
    """
    folder = options.folder
    if options.cache_gib == 0 or folder is None:
        return None
    return Cache(folder, int(options.cache_gib * 2**30 / parts), part=part, parts=parts)


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
