"""Objects behind URLs as files: read from begin to end in large pieces, or only where bytes are needed."""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from collections.abc import Callable

from dali_pipelines.storage.stores import Object, Range
from dali_pipelines.storage.transfers import fetch

# One request for so many bytes: the latency of a request is small compared with the transfer.
PIECE_BYTES = 2**23
# The end of an object that is fetched at once. The footer of a parquet file has some 100 KiB.
TAIL_BYTES = 2**17


class SeekableFile(io.RawIOBase):
    """A file of a known size that is read at any position. Subclasses set `at`.

    Args:
        size: Number of its bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._position = 0

    @abstractmethod
    def at(self, offset: int, size: int) -> bytes:
        """Return bytes at a position. The position of the file stays.

        Args:
            offset: Position of the first byte.
            size: Number of bytes. Fewer are returned at the end of the file.
        """

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Change the position, and return it."""
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, begin + offset)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, without a copy where `at` makes none. All that follow if the size is negative."""
        rest = max(0, self._size - self._position)
        content = self.at(self._position, rest if size is None or size < 0 else min(size, rest))
        self._position += len(content)
        return content

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read the next bytes into the buffer, and return their number."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class ObjectFile(SeekableFile):
    """An object as a file. Pieces are fetched in order, and the last two are kept in memory.

    Args:
        item: Object.
        fetched: Function that fetches a range.
    """

    def __init__(self, item: Object, fetched: Callable[[Range], bytes] = fetch) -> None:
        super().__init__(item.size)
        self._object = item
        self._fetched = fetched
        self._pieces: dict[int, bytes] = {}

    def at(self, offset: int, size: int) -> bytes:
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


class TailFile(SeekableFile):
    """An object of which little is read. Its last TAIL_BYTES are fetched at once, and kept; other bytes exactly.

    Args:
        item: Object.
        fetched: Function that fetches a range.
    """

    def __init__(self, item: Object, fetched: Callable[[Range], bytes] = fetch) -> None:
        super().__init__(item.size)
        self._object = item
        self._fetched = fetched
        self._tail_begin = max(0, item.size - TAIL_BYTES)
        self._tail: bytes | None = None

    def at(self, offset: int, size: int) -> bytes:
        if offset < self._tail_begin:
            return self._range(offset, min(size, self._size - offset))
        if self._tail is None:
            self._tail = self._range(self._tail_begin, self._size - self._tail_begin)
        begin = offset - self._tail_begin
        return self._tail[begin : begin + size]

    def _range(self, offset: int, size: int) -> bytes:
        return self._fetched(Range(self._object.url, self._object.version, offset, size))


class RangeFile(SeekableFile):
    """A file of which one range is in memory. It ends with that range.

    Args:
        content: Bytes of the range.
        offset: Position of its first byte.
    """

    def __init__(self, content: bytes, offset: int) -> None:
        super().__init__(offset + len(content))
        self._content = content
        self._offset = offset

    def at(self, offset: int, size: int) -> bytes:
        begin = offset - self._offset
        if begin < 0:
            raise OSError(f"byte {offset} is not in memory, which begins at {self._offset}")
        return self._content[begin : begin + size]
