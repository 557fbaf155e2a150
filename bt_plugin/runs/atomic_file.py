"""Write files that are complete and durable, or do not exist."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from bt_plugin.errors import FileError, file_error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is complete or does not exist, even after a power cut. An existing file is replaced.

    Args:
        path: The file. Its folder must exist.
        content: Content of the file. Text is written as UTF-8; file names that are not UTF-8 keep their bytes.

    Raises:
        FileError: If the file cannot be written. An existing file is then unchanged.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with _replaced(path) as partial:
        partial.write_bytes(data)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table that is complete or does not exist, row by row. An existing file is replaced.

    Args:
        path: The .csv file. Its folder must exist.
        header: Names of the columns.
        rows: Cells of each row.

    Raises:
        FileError: If the file cannot be written. An existing file is then unchanged.
    """
    with (
        _replaced(path) as partial,
        open(partial, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file).writerows(chain([header], rows))


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path. The file that is written there becomes durable, and replaces the file at `path`."""
    partial = path.with_name(f".{path.name[:50]}.partial")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except OSError as error:
        raise file_error(error, path) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def check_output(path: Path, key: str) -> None:
    """Check that an output can be written, before any work is done for it. Leave nothing behind.

    Args:
        path: The file or folder that will be written.
        key: Recipe key or option that names the path, for the message.

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
        raise FileError(f"{key}: {path} is not a valid path: {error}. Choose another path") from error
    except OSError as error:
        raise file_error(error, path, key) from error


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
