"""Make the paths that a user names absolute, and name them in errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_RULES = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.EACCES: "permission denied; change its permissions",
    errno.EPERM: "permission denied; change its permissions",
    errno.ELOOP: "is an endless chain of symbolic links; remove them",
    errno.EMFILE: "cannot be opened, because too many files are open; raise the limit with ulimit -n",
}


def absolute(path: str | Path) -> Path:
    """Return the absolute path, with ~ expanded. It stays valid after a change of the working directory.

    Parts such as ".." stay, because after a symbolic link they lead to another folder than their text says.

    Args:
        path: Path as the user wrote it.

    Raises:
        ValueError: If the path is relative and the working directory does not exist any more.
    """
    try:
        return Path(os.path.expanduser(path)).absolute()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the working directory does not exist any more; use an absolute path") from error


def unreadable(path: str | Path, error: OSError) -> ValueError:
    """Return the error that names a path and the reason why it cannot be read.

    Args:
        path: Path as the user wrote it.
        error: Error of the operating system.
    """
    reason = _RULES.get(error.errno or 0) or error.strerror or str(error)
    return ValueError(f"{os.fspath(path)}: {reason}")
