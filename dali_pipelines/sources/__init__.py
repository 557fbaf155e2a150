"""What is read: image files, tar shards, or arrays, with labels or without."""

from __future__ import annotations

import os
from pathlib import Path

from dali_pipelines.sources.array_files import array_file
from dali_pipelines.sources.arrays import ArraySource, array_source
from dali_pipelines.sources.base import NO_LABEL, ImageSource, Relabelled, Subset
from dali_pipelines.sources.files import FileSource
from dali_pipelines.sources.folders import any_folder, flat_folder, image_folder
from dali_pipelines.sources.lists import LIST_DELIMITERS, file_list
from dali_pipelines.sources.paths import absolute
from dali_pipelines.sources.tars import TarSource, is_tar_pattern, tar_shards

__all__ = [
    "NO_LABEL",
    "ArraySource",
    "FileSource",
    "ImageSource",
    "Relabelled",
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
    """What is stored at a path, told by its suffix.

    .tar is tar shards, with wildcards and braces; .csv, .tsv and .txt are file lists; .npz and .npy are arrays of
    pixels. Anything else is a folder: with images of its own it is flat, otherwise its sub-folders are the classes.

    Raises:
        ValueError: If nothing is there, it cannot be read, it is damaged, or it has no image.
    """
    path = os.fspath(path)
    found = absolute(path)
    suffix = found.suffix.lower()
    if not os.path.isdir(found):
        if is_tar_pattern(path):
            return tar_shards(path)
        if suffix in LIST_DELIMITERS and os.path.lexists(found):
            return file_list(found)
        if suffix in (".npz", ".npy") and os.path.lexists(found):
            return array_file(found)
    return any_folder(found)
