"""Write a new file or folder under its final name, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bt_plugin.errors import FileError, file_error
from bt_plugin.runs.atomic_file import check_output


def check_new(path: Path, key: str) -> None:
    """Refuse an output that exists or could not be written, before any work is done for it.

    Args:
        path: The new file or folder.
        key: The option that names it, for the message.

    Raises:
        FileError: If the path exists, or the nearest existing folder above it cannot be written.
    """
    check_output(path, key)
    if os.path.lexists(path):
        raise FileError(f"{key}: {path} exists, and is not overwritten; name another folder or file, or remove it")


@contextmanager
def new_path(path: Path, key: str) -> Iterator[Path]:
    """Give a temporary path of the same name, for a file or folder that takes its final path at the end of the block.

    It is in a temporary folder next to the final path, because programs tell formats by names. That folder is removed
    in every case.

    Args:
        path: The new file or folder; missing folders above it are made.
        key: The option that names it, for messages.

    Raises:
        FileError: If the path exists or cannot be written.
    """
    check_new(path, key)
    folder = path.with_name(f".{path.name[:50]}.partial")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder / path.name
        check_new(path, key)
        os.rename(folder / path.name, path)
    except OSError as error:
        raise file_error(error, path, key) from error
    except FileError as error:
        # The user knows the final path only.
        if isinstance(error.__cause__, OSError) and str(folder) in str(error):
            raise file_error(error.__cause__, path, key) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
