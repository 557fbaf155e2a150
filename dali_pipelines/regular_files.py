"""Open what a user names: regular files only, so that no pipe, socket or device can hold a program up."""

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
    """A path that leads to a folder, a pipe, a socket or a device instead of a file."""

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def open_regular(path: str | Path) -> FileIO:
    """Open a regular file for reading, unbuffered.

    Args:
        path: The file; symbolic links are followed.

    Raises:
        NotRegularError: If the path leads to a folder, a pipe, a socket or a device.
        OSError: If the file cannot be opened.
    """
    descriptor = _opened(path)
    return open(descriptor, "rb", buffering=0)


def read_regular(path: str | Path, most_bytes: int | None = None) -> bytes:
    """Read a whole regular file.

    Args:
        path: The file; symbolic links are followed.
        most_bytes: Size that the file may have; None is any.

    Raises:
        NotRegularError: If the path leads to a folder, a pipe, a socket or a device.
        OSError: If the file cannot be read, or is larger than most_bytes.
    """
    descriptor = _opened(path)
    try:
        size = os.fstat(descriptor).st_size
        if most_bytes is not None and size > most_bytes:
            raise OSError(errno.EFBIG, f"has {size} bytes, and at most {most_bytes} are read", os.fspath(path))
        # A single read of a whole file is the rule; more of them only where the file grows or exceeds 2 GiB.
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
