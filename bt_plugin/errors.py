"""Errors that the user can correct. The command line prints them without a traceback."""

from __future__ import annotations

import errno
import os


class UserError(ValueError):
    """An error that the user can correct. The message names the key or file, its value, the rule and the remedy."""


class RecipeError(UserError):
    """A recipe that cannot be run on these images and this machine."""


class LaunchError(UserError):
    """Processes that were not launched as one group of ranks."""


class DivergenceError(UserError):
    """Values that are NaN or infinite: a loss or gradient for too many steps, or features. Every rank raises it."""


class LostRankError(UserError):
    """Another rank that ended or no longer answers."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written or restored. Every rank raises it."""


class CallbackError(UserError):
    """A callback of the user that raised an error, which is the cause of this one."""


class BackboneError(UserError):
    """A function of the user's that does not build a backbone. The message names it and its place."""


class WeightsError(UserError):
    """Weights that cannot be read, or cannot be written in the format of another library."""


class HostError(UserError):
    """A version of another library into which bt-plugin cannot be plugged."""


class FileError(UserError):
    """A file or folder that cannot be read or written."""


class PreemptedError(Exception):
    """The run stopped because a signal asked it to. It wrote a checkpoint."""


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
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "remove the symbolic links that lead to each other",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
    errno.EIO: "check the disk or the network storage",
    errno.ESTALE: "check the network storage",
    errno.ENOMEM: "free memory",
}


def file_error(error: OSError, path: str | os.PathLike[str] | None = None, key: str = "") -> FileError:
    """Return an error that names the path, the reason given by the operating system, and the remedy.

    Args:
        error: Error of the operating system.
        path: Path to name. Default: the path in the error. Give it if the error names none, or a temporary one.
        key: Recipe key or command-line option that names the path.
    """
    named = path if path is not None else error.filename
    if isinstance(named, bytes):
        named = os.fsdecode(named)
    reason = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "")
    parts = [f"{key}: " if key else "", f"{os.fspath(named)}: " if isinstance(named, (str, os.PathLike)) else ""]
    return FileError(f"{''.join(parts)}{reason}" + (f"; {remedy}" if remedy and remedy not in reason else ""))
