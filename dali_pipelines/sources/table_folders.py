"""Open what a path of tables names: parquet files, a folder of them, or a folder of save_to_disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dali_pipelines.sources.base import ImageSource
from dali_pipelines.sources.files import is_image
from dali_pipelines.sources.parquet import parquet_files
from dali_pipelines.sources.paths import absolute
from dali_pipelines.sources.saved_datasets import is_saved, saved_dataset

_SUFFIX = ".parquet"
# What follows the name of a split in train-00000-of-00256.parquet.
_NUMBER = re.compile(r"\d+(-of-\d+)?(-[0-9a-f]+)?$")


def is_parquet_url(url: str) -> bool:
    """Return whether a URL is a pattern of parquet files, perhaps with ?image=COLUMN&label=COLUMN at its end."""
    place, mark, choices = url.rpartition("?")
    return (place if mark and "=" in choices else url).lower().endswith(_SUFFIX)


def open_table(path: str) -> ImageSource | None:
    """Open the images of a table, or return None if the path has none.

    - A path that ends in .parquet: parquet files, with wildcards and braces (see parquet_files).
    - A folder that save_to_disk has written (see saved_dataset).
    - A folder that directly contains parquet files of one split, and no images.

    Args:
        path: Path of the images, perhaps with ?image=COLUMN&label=COLUMN at its end.

    Raises:
        ValueError: If the table cannot be read, or the folder has several splits.
    """
    place, mark, _ = path.rpartition("?")
    if not mark or "=" not in path[len(place) :] or os.path.lexists(absolute(path)):
        place = path
    folder = absolute(place)
    if not os.path.isdir(folder):
        return parquet_files(path) if place.lower().endswith(_SUFFIX) else None
    if is_saved(folder):
        return saved_dataset(path)
    names = _parquet_names(folder)
    if not names:
        return None
    patterns = sorted({_pattern_of(name) for name in names})
    if len(patterns) > 1:
        shown = " or ".join(os.path.join(place, pattern) for pattern in patterns[:8])
        every = os.path.join(place, f"*{_SUFFIX}")
        raise ValueError(f"{place}: has files of {len(patterns)} splits; give {shown}, or {every} for all")
    tail = path[len(place) :]
    return parquet_files([f"{folder / name}{tail}" for name in names])


def _parquet_names(folder: Path) -> list[str]:
    """Return the names of the parquet files in a folder, sorted; none if it also contains images."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_image(entry.name):
                    return []
                if entry.name[0] != "." and entry.name.lower().endswith(_SUFFIX) and not entry.is_dir():
                    names.append(entry.name)
    except OSError:  # whoever reads the folder next names the reason
        return []
    return sorted(names)


def _pattern_of(name: str) -> str:
    """Return the pattern of the files that belong to the split of a file."""
    stem = name[: -len(_SUFFIX)]
    head = _NUMBER.sub("", stem)
    return name if head == stem else f"{head}*{_SUFFIX}"
