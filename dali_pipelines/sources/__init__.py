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
from dali_pipelines.sources.list_reader import LIST_DELIMITERS
from dali_pipelines.sources.lists import file_list
from dali_pipelines.sources.parquet import parquet_files
from dali_pipelines.sources.parquet_source import ParquetSource
from dali_pipelines.sources.paths import absolute
from dali_pipelines.sources.saved_datasets import saved_dataset
from dali_pipelines.sources.several import SeveralSources, each_once, several_sources
from dali_pipelines.sources.table_folders import is_parquet_url, open_table
from dali_pipelines.sources.tar_patterns import is_tar_pattern
from dali_pipelines.sources.tars import TarSource, tar_shards
from dali_pipelines.storage.options import DEFAULT, Storage
from dali_pipelines.storage.urls import check_url, is_url, scrubbed, suffix_of

__all__ = [
    "NO_LABEL",
    "ArraySource",
    "FileSource",
    "ImageSource",
    "ParquetSource",
    "Relabeled",
    "SeveralSources",
    "Storage",
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


def open_source(path: str | Path | Sequence[str | Path], *, storage: Storage = DEFAULT) -> ImageSource:
    """Open the images at a path or a URL. The suffix of the path decides how they are read.

    - .tar: tar shards, with wildcards and braces (see tar_shards).
    - .parquet: parquet files, with wildcards and braces (see parquet_files).
    - .csv, .tsv or .txt: a list of files (see file_list).
    - .npz or .npy: an array of pixels, (N, H, W, C) uint8.
    - A folder that directly contains .parquet files of one split, or that save_to_disk has written (see saved_dataset).
    - A folder that directly contains images: all its images, without labels (see flat_folder).
    - Any other folder: its sub-folders are the classes (see image_folder).
    - A list of paths: the images of all of them (see several_sources).

    Tar shards, parquet files and lists of files may also be URLs: s3://, gs://, http(s):// and hf://datasets/.

    Args:
        path: Path of the images; ~ is the home directory. ?image=COLUMN&label=COLUMN at the end selects the columns of
            parquet files and saved datasets. Or the URL of tar shards, parquet files or a list.
        storage: Where the bytes that are fetched from URLs are kept.

    Raises:
        ValueError: If the path does not exist, cannot be read, is damaged, or has no image.
        StorageError: If a remote storage does not answer.

    Examples:
        >>> source = open_source("shards/train-{0000..0146}.tar")
        >>> len(source), source.classes
    """
    if not isinstance(path, (str, Path)):
        return several_sources([open_source(each, storage=storage) for each in path])
    path = os.fspath(path)
    if is_url(path):
        return _open_url(path, storage)
    found = absolute(path)
    table = open_table(path)
    if table is not None:
        return table
    suffix = found.suffix.lower()
    if not os.path.isdir(found):
        if is_tar_pattern(path):
            return tar_shards(path)
        if suffix in LIST_DELIMITERS and os.path.lexists(found):
            return file_list(found, storage=storage)
        if suffix in (".npz", ".npy") and os.path.lexists(found):
            return array_file(found)
    return any_folder(found)


def _open_url(url: str, storage: Storage) -> ImageSource:
    check_url(url)
    if is_tar_pattern(url):
        return tar_shards(url, storage=storage)
    if is_parquet_url(url):
        return parquet_files(url, storage=storage)
    if suffix_of(url) in LIST_DELIMITERS:
        return file_list(url, storage=storage)
    raise ValueError(
        f"{scrubbed(url)}: is neither a list of files (.csv, .tsv, .txt) nor .tar shards or .parquet files; folders and"
        " arrays behind URLs are not read, so name a list of the files, shards or .parquet files"
    )
