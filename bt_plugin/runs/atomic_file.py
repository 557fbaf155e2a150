"""Write files that are whole and durable, or not there at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from bt_plugin.errors import FileError, file_error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut. An existing file is replaced.

    Args:
        path: The file; its folder exists.
        content: Text is written as UTF-8; file names that are not UTF-8 keep their bytes.

    Raises:
        FileError: If it cannot be written. A file that was there before is unchanged.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    partial = path.with_name(f".{path.name[:50]}.partial")
    try:
        partial.write_bytes(data)
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except OSError as error:
        raise file_error(error, path) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def check_output(path: Path, key: str) -> None:
    """Refuse an output that could not be written, before any work is done for it. Nothing is left behind.

    Args:
        path: The file or folder that will be written.
        key: The recipe's key or the option that names it, for the message.

    Raises:
        FileError: If the nearest existing folder above it cannot be written.
    """
    folder = path.absolute().parent
    try:
        # Also finds names that are too long, and files where folders must be.
        with suppress(FileNotFoundError):
            os.lstat(path)
        while not os.path.lexists(folder):
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except ValueError as error:
        raise FileError(f"{key}: {path} is no path: {error}; name another") from error
    except OSError as error:
        raise file_error(error, path, key) from error


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
