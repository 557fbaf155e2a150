"""Read an object from its begin to its end as a file, in large pieces."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

from dali_pipelines.storage.stores import Object, Range
from dali_pipelines.storage.transfers import fetch

# One request for so many bytes: the latency of a request is small compared with the transfer.
PIECE_BYTES = 2**23


class ObjectFile(io.RawIOBase):
    """An object as a file. Pieces are fetched in order, and the last two are kept in memory.

    Args:
        item: Object.
        fetched: Function that fetches a range.
    """

    def __init__(self, item: Object, fetched: Callable[[Range], bytes] = fetch) -> None:
        self._object = item
        self._fetched = fetched
        self._position = 0
        self._pieces: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Change the position, and return it."""
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._object.size}[whence]
        self._position = max(0, begin + offset)
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read the next bytes into the buffer, and return their number."""
        content = self.at(self._position, len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def at(self, offset: int, size: int) -> bytes:
        """Return bytes at another position. The position of the file stays.

        Args:
            offset: Position of the first byte.
            size: Number of bytes. Fewer are returned at the end of the object.
        """
        end = min(offset + size, self._object.size)
        parts = []
        while offset < end:
            number, begin = divmod(offset, PIECE_BYTES)
            part = self._piece(number)[begin : begin + end - offset]
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _piece(self, number: int) -> bytes:
        if number not in self._pieces:
            while len(self._pieces) > 1:
                del self._pieces[min(self._pieces)]
            start = number * PIECE_BYTES
            size = min(PIECE_BYTES, self._object.size - start)
            self._pieces[number] = self._fetched(Range(self._object.url, self._object.version, start, size))
        return self._pieces[number]
