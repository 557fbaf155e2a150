"""Errors that are the user's to correct; the command line prints them without a traceback."""

from __future__ import annotations

import errno
import os


class UserError(ValueError):
    """Something to correct; the message names it, its value, the rule and the remedy."""


class RecipeError(UserError):
    """A recipe that cannot be run as it is."""


class LaunchError(UserError):
    """Processes that were not launched as one group."""


class DivergenceError(UserError):
    """Training that has become NaN or infinite, as every rank knows."""


class LostRankError(UserError):
    """Another rank that does not answer any more."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written or restored, as every rank knows."""


class WeightsError(UserError):
    """Weights that cannot be read, or written for another library."""


class HostError(UserError):
    """A version of another program that this one cannot be plugged into."""


class FileError(UserError):
    """A file or folder that cannot be read or written."""


class PreemptedError(Exception):
    """The run was asked to stop, and did so with a checkpoint."""


_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "change its permissions, or name another path",
    errno.EPERM: "change its permissions, or name another path",
    errno.EROFS: "name a path on a file system that can be written",
    errno.ENOSPC: "free disk space, then rerun the same command",
    errno.EDQUOT: "free disk space or raise the quota, then rerun the same command",
    errno.ENOTDIR: "a part of the path is a file; name another path",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "name another path, or remove what is there",
    errno.ENAMETOOLONG: "take a shorter name",
    errno.ELOOP: "remove the symbolic links that lead to each other",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
    errno.EIO: "check the disk or the network storage",
    errno.ESTALE: "check the network storage",
    errno.ENOMEM: "free memory",
}


def file_error(error: OSError, path: str | os.PathLike[str] | None = None, key: str = "") -> FileError:
    """Return the error that names the path, what the system says about it, and the remedy.

    Args:
        error: The system's.
        path: The path, where the error does not name it or names a temporary one.
        key: The recipe's key or the option that names the path.
    """
    named = path if path is not None else error.filename
    if isinstance(named, bytes):
        named = os.fsdecode(named)
    reason = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "")
    parts = [f"{key}: " if key else "", f"{os.fspath(named)}: " if isinstance(named, (str, os.PathLike)) else ""]
    return FileError(f"{''.join(parts)}{reason}" + (f"; {remedy}" if remedy and remedy not in reason else ""))
