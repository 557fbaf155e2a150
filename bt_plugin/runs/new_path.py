"""Write a new file or folder that appears under its final name only when complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bt_plugin.errors import FileError, file_error
from bt_plugin.runs.atomic_file import check_output


def check_new(path: Path, key: str) -> None:
    """Check that an output does not exist yet and can be written, before any work is done for it.

    Args:
        path: The new file or folder.
        key: Option that names the path, for the message.

    Raises:
        FileError: If the path exists, or the nearest existing folder above it cannot be written.
    """
    check_output(path, key)
    if os.path.lexists(path):
        raise FileError(f"{key}: {path} exists, and is not overwritten. Choose another name, or remove it")


@contextmanager
def new_path(path: Path, key: str) -> Iterator[Path]:
    """Yield a temporary path of the same name. What is written there moves to the final path at the end of the block.

    The path is in a temporary folder next to the final path, and has the same name because programs derive formats from
    names. That folder is removed in every case.

    Args:
        path: The new file or folder. Missing folders above it are made.
        key: Option that names the path, for messages.

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
        # The user knows only the final path.
        if isinstance(error.__cause__, OSError) and str(folder) in str(error):
            raise file_error(error.__cause__, path, key) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
