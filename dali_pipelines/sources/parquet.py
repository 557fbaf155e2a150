"""Open the images in parquet files, as the package datasets and the Hugging Face Hub store them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dali_pipelines.sources.index_cache import cached_index
from dali_pipelines.sources.parquet_index import index_of
from dali_pipelines.sources.parquet_source import CACHE_GIB, ParquetSource
from dali_pipelines.sources.patterns import expanded, split_choices
from dali_pipelines.sources.remote import expanded_url
from dali_pipelines.sources.remote_parquet import remote_parquet_files
from dali_pipelines.sources.table_columns import CHOICES, import_pyarrow
from dali_pipelines.storage.options import DEFAULT, Storage
from dali_pipelines.storage.urls import is_url


def parquet_files(
    pattern: str | Path | Iterable[str | Path], *, cache_gib: float = CACHE_GIB, storage: Storage = DEFAULT
) -> ParquetSource:
    """Open the images in parquet files, in the order of the files.

    The column of images is found if the package datasets has written the files, or if it is the only binary column or
    the only struct with the field "bytes". The column of labels is found if it is a ClassLabel, or has a usual name and
    numbers or strings. The footers and labels are read once, and their index is kept for the next start (see
    index_cache). An image is decoded with its whole row group, so use TwoViewLoader's shuffle_window.

    Args:
        pattern: Path of a file, or several paths. A path may have wildcards (set/*.parquet) and braces. With
            ?image=COLUMN&label=COLUMN at the end, these columns are read; ?label= reads no labels. Files may also be
            URLs, such as hf://datasets/OWNER/NAME/data/train-*.parquet.
        cache_gib: Memory for decoded row groups, in GiB, more than 0. The row group that is read is kept in any case.
        storage: Where the bytes of remote files are kept.

    Raises:
        ValueError: If a file is missing or not a whole parquet file, the files have different columns, or it is not
            clear which columns are read. Also if pyarrow is not installed.
        StorageError: If a remote storage does not answer.

    Examples:
        >>> source = parquet_files("imagenet/data/train-*.parquet")
        >>> plain = parquet_files("set/*.parquet?image=photo&label=kind")
    """
    if cache_gib <= 0:
        raise ValueError(f"cache_gib: {cache_gib} is not allowed; it must be more than 0")
    patterns = [os.fspath(pattern)] if isinstance(pattern, (str, Path)) else [os.fspath(each) for each in pattern]
    chosen = [split_choices(each, CHOICES) for each in patterns]
    if not chosen or any(choices != chosen[0][1] for _, choices in chosen):
        raise ValueError(
            f"{', '.join(patterns) or 'no pattern'}: is not allowed; give at least one file, and all files with the"
            " same ?image=COLUMN&label=COLUMN or none"
        )
    if len({is_url(each) for each, _ in chosen}) > 1:
        raise ValueError(f"{', '.join(patterns)}: is not allowed; give paths only, or URLs only")
    import_pyarrow(patterns[0])
    choices = chosen[0][1]
    if is_url(patterns[0]):
        urls = [url for each, _ in chosen for url in expanded_url(each, "file")]
        return remote_parquet_files(urls, choices, cache_gib=cache_gib, storage=storage)
    files = [file for each, _ in chosen for file in expanded(each, "file")]
    texts = (f"{key}={value}" for key, value in sorted(choices.items()))
    key = "\n".join(["parquet", *texts, *map(os.path.abspath, files)])
    return ParquetSource(files, cached_index(key, lambda: index_of(files, choices)), cache_gib=cache_gib)
