"""What is read: image files, tar shards, or arrays, with labels or without."""

from __future__ import annotations

from pathlib import Path

from dali_pipelines.sources.arrays import ArraySource, array_file, array_source
from dali_pipelines.sources.base import NO_LABEL, ImageSource, Subset
from dali_pipelines.sources.files import (
    LIST_DELIMITERS,
    FileSource,
    existing_folder,
    file_list,
    flat_folder,
    has_images,
    image_folder,
)
from dali_pipelines.sources.tars import TarSource, tar_shards

__all__ = [
    "NO_LABEL",
    "ArraySource",
    "FileSource",
    "ImageSource",
    "Subset",
    "TarSource",
    "array_file",
    "array_source",
    "file_list",
    "flat_folder",
    "image_folder",
    "open_source",
    "tar_shards",
]


def open_source(path: str | Path) -> ImageSource:
    """What lies at a path, told by its suffix.

    .tar is tar shards, with wildcards and braces; .csv, .tsv and .txt are file lists; .npz and .npy are arrays of
    pixels. Anything else is a folder: with images of its own it is flat, otherwise its sub-folders are the classes.

    Raises:
        ValueError: If nothing is there, or no image in it.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".tar":
        return tar_shards(path)
    if Path(path).expanduser().is_file():
        if suffix in LIST_DELIMITERS:
            return file_list(path)
        if suffix in (".npz", ".npy"):
            return array_file(path)
    folder = existing_folder(path)
    return flat_folder(folder) if has_images(folder) else image_folder(folder)
