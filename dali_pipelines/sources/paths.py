"""Paths that a user names: absolute from the start, and errors that name them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_RULES = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.EACCES: "may not be read; change its permissions",
    errno.EPERM: "may not be read; change its permissions",
    errno.ELOOP: "is a chain of symbolic links without an end; remove them",
    errno.EMFILE: "cannot be opened, because too many files are open; raise the limit: ulimit -n",
}


def absolute(path: str | Path) -> Path:
    """Return the path with its home directory filled in, valid after a change of the working directory.

    Parts such as ".." stay, because after a symbolic link they mean another folder than their text says.

    Args:
        path: As the user wrote it.

    Raises:
        ValueError: If the path is relative and the working directory was removed.
    """
    try:
        return Path(os.path.expanduser(path)).absolute()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the working directory does not exist any more; give an absolute path") from error


def unreadable(path: str | Path, error: OSError) -> ValueError:
    """Return the error that names a path and the reason why it cannot be read.

    Args:
        path: As the user knows it.
        error: The system's.
    """
    reason = _RULES.get(error.errno or 0) or error.strerror or str(error)
    return ValueError(f"{os.fspath(path)}: {reason}")
