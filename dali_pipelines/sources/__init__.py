"""The sources of images: image files, tar shards, parquet files or arrays, with labels or without."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dali_pipelines.sources.array_files import array_file
from dali_pipelines.sources.arrays import ArraySource, array_source
from dali_pipelines.sources.base import NO_LABEL, ImageSource, Relabeled, Subset, Upcoming
from dali_pipelines.sources.files import FileSource
from dali_pipelines.sources.folders import any_folder, flat_folder, image_folder
from dali_pipelines.sources.lists import LIST_DELIMITERS, file_list
from dali_pipelines.sources.parquet import ParquetSource, parquet_files
from dali_pipelines.sources.paths import absolute
from dali_pipelines.sources.saved_datasets import saved_dataset
from dali_pipelines.sources.several import SeveralSources, each_once, several_sources
from dali_pipelines.sources.table_folders import open_table
from dali_pipelines.sources.tars import TarSource, is_tar_pattern, tar_shards

__all__ = [
    "NO_LABEL",
    "ArraySource",
    "FileSource",
    "ImageSource",
    "ParquetSource",
    "Relabeled",
    "SeveralSources",
    "Subset",
    "TarSource",
    "Upcoming",
    "array_file",
    "array_source",
    "each_once",
    "file_list",
    "flat_folder",
    "image_folder",
    "open_source",
    "parquet_files",
    "saved_dataset",
    "several_sources",
    "tar_shards",
]


def open_source(path: str | Path | Sequence[str | Path]) -> ImageSource:
    """Open the images at a path. The suffix of the path decides how they are read.

    - .tar: tar shards, with wildcards and braces (see tar_shards).
    - .parquet: parquet files, with wildcards and braces (see parquet_files).
    - .csv, .tsv or .txt: a list of files (see file_list).
    - .npz or .npy: an array of pixels, (N, H, W, C) uint8.
    - A folder that directly contains .parquet files of one split, or that save_to_disk has written (see saved_dataset).
    - A folder that directly contains images: all its images, without labels (see flat_folder).
    - Any other folder: its sub-folders are the classes (see image_folder).
    - A list of paths: the images of all of them (see several_sources).

    Args:
        path: Path of the images; ~ is the home directory. ?image=COLUMN&label=COLUMN at the end selects the columns of
            parquet files and saved datasets.

    Raises:
        ValueError: If the path does not exist, cannot be read, is damaged, or has no image.

    Examples:
        >>> source = open_source("shards/train-{0000..0146}.tar")
        >>> len(source), source.classes
    """
    if not isinstance(path, (str, Path)):
        return several_sources([open_source(each) for each in path])
    path = os.fspath(path)
    found = absolute(path)
    table = open_table(path)
    if table is not None:
        return table
    suffix = found.suffix.lower()
    if not os.path.isdir(found):
        if is_tar_pattern(path):
            return tar_shards(path)
        if suffix in LIST_DELIMITERS and os.path.lexists(found):
            return file_list(found)
        if suffix in (".npz", ".npy") and os.path.lexists(found):
            return array_file(found)
    return any_folder(found)
