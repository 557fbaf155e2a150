"""Open the files that a user names. Only regular files are opened, because a pipe, socket or device could block."""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularError(OSError):
    """The error of a path that leads to a folder, a pipe, a socket or a device instead of a file."""

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def open_regular(path: str | Path) -> FileIO:
    """Open a regular file for reading, without a buffer.

    Args:
        path: File to open; symbolic links are followed.

    Raises:
        NotRegularError: If the path leads to a folder, a pipe, a socket or a device.
        OSError: If the file cannot be opened.
    """
    descriptor = _opened(path)
    return open(descriptor, "rb", buffering=0)


def read_regular(path: str | Path, most_bytes: int | None = None) -> bytes:
    """Read a whole regular file.

    Args:
        path: File to read; symbolic links are followed.
        most_bytes: Largest size of the file, in bytes; None is any size.

    Raises:
        NotRegularError: If the path leads to a folder, a pipe, a socket or a device.
        OSError: If the file cannot be read, or is larger than most_bytes.
    """
    descriptor = _opened(path)
    try:
        size = os.fstat(descriptor).st_size
        if most_bytes is not None and size > most_bytes:
            raise OSError(errno.EFBIG, f"has {size} bytes, and at most {most_bytes} are read", os.fspath(path))
        # One read is enough for almost every file. Only a file that grows or exceeds 2 GiB needs more.
        content = os.read(descriptor, size + 1)
        while len(content) <= size and (more := os.read(descriptor, size + 1 - len(content))):
            content += more
        return content
    finally:
        os.close(descriptor)


def _opened(path: str | Path) -> int:
    descriptor = os.open(path, _FLAGS)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise NotRegularError(errno.EINVAL, f"is {kind}; only regular files are read", os.fspath(path))
    return descriptor
