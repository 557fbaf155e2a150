"""Check the bytes of a text file while it is read: they must be lines of text."""

from __future__ import annotations

import io
from pathlib import Path

_MOST_LINE_BYTES = 2**16
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class CheckedLines(io.RawIOBase):
    """A file whose chunks are checked while it is read. This is faster than a check of each line.

    Args:
        file: File to read.
        path: Path or URL of the file, for messages.
    """

    def __init__(self, file: io.FileIO | io.BytesIO, path: Path | str) -> None:
        self._file = file
        self._path = path
        self._lines = 0
        # Number of bytes since the last end of a line.
        self._open_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read the next chunk into the buffer, and return its number of bytes.

        Raises:
            ValueError: If the chunk has a NUL byte or the UTF-16 mark, or a line has more than 65,536 bytes.
        """
        count = self._file.readinto(buffer)
        chunk = bytes(buffer[:count])
        if self._lines == self._open_bytes == 0 and chunk.startswith(_UTF_16):
            raise ValueError(f"{self._path}, line 1: the list is UTF-16; save it as UTF-8")
        nul = chunk.find(b"\0")
        if nul >= 0:
            line = 1 + self._lines + chunk.count(b"\n", 0, nul)
            raise ValueError(
                f"{self._path}, line {line}: has a NUL byte, so it is probably UTF-16; save the list as UTF-8"
            )
        last = chunk.rfind(b"\n")
        self._lines += chunk.count(b"\n")
        self._open_bytes = self._open_bytes + count if last < 0 else count - last - 1
        if self._open_bytes > _MOST_LINE_BYTES:
            raise ValueError(
                f"{self._path}, line {1 + self._lines}: has more than {_MOST_LINE_BYTES} bytes; write one path per line"
            )
        return count
