"""The source of images in parquet files, as the package datasets and the Hugging Face Hub store them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources.base import ImageSource
from dali_pipelines.sources.group_cache import GroupCache
from dali_pipelines.sources.index_cache import Index, cached_index
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.parquet_groups import RowGroup, decode_group
from dali_pipelines.sources.parquet_index import chunk_of, index_of, indexed_chunk, open_table_file
from dali_pipelines.sources.patterns import expanded, split_choices
from dali_pipelines.sources.table_columns import CHOICES, import_pyarrow

CACHE_GIB = 1.0
# Footers that stay in memory. One has some 100 KiB.
_MOST_FOOTERS = 512


class ByteRange(NamedTuple):
    """A range of bytes of a file.

    Args:
        path: Path of the file.
        offset: Position of the first byte.
        size: Number of bytes.
    """

    path: str
    offset: int
    size: int


class ParquetSource(ImageSource):
    """A source of images in parquet files. An image is read with its row group, which stays in memory for a while.

    Args:
        files: Paths of the files.
        index: Index of the files (see parquet_index.index_of).
        cache_gib: Memory for decoded row groups, in GiB, more than 0. The row group that is read is kept in any case.
    """

    kind = "encoded"

    def __init__(self, files: Sequence[str], index: Index, *, cache_gib: float = CACHE_GIB) -> None:
        classes = tuple(Names(index["classes"], index["class_ends"]))
        super().__init__(Names(index["names"], index["ends"]), index["labels"] if classes else None, classes)
        self._files = files
        self._leaf = index["leaf"].tobytes().decode()
        self._index = index
        rows, decoded_bytes = index["group_rows"], index["group_decoded_bytes"]
        self.groups = np.cumsum(rows) - rows
        cache_bytes = int(cache_gib * 2**30)
        whole_groups = cache_bytes * len(rows) // max(1, int(decoded_bytes.sum()))
        if whole_groups < len(rows):
            # A window can begin and end within a group.
            self.kept_images = max(0, whole_groups - 2) * len(self) // len(rows)
        self._metadata = lru_cache(_MOST_FOOTERS)(_read_metadata)
        self._decoded = GroupCache(self._decode, cache_bytes)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of an image, (n,) uint8."""
        group = self.group_of(index)
        assert self.groups is not None, "a parquet file has groups"
        return self._decoded.get(group).image(index - int(self.groups[group]))

    def place(self, index: int) -> str:
        """Return the path of an image's file, and the number of its row in the file."""
        return f"{self._file(self.group_of(index))}, row {self.names[index].rpartition('/')[2]}"

    def group_of(self, index: int) -> int:
        """Return the number of the row group that has an image, counted over all files.

        Args:
            index: Position of the image, 0 to len(self) - 1.
        """
        assert self.groups is not None, "a parquet file has row groups"
        return int(np.searchsorted(self.groups, index, side="right")) - 1

    def byte_range(self, group: int) -> ByteRange:
        """Return the bytes that are read for the images of a row group. The footer of the file is read besides them.

        Args:
            group: Number of the row group, counted over all files, 0 to len(self.groups) - 1.
        """
        chunk = indexed_chunk(self._index, group)
        return ByteRange(self._file(group), chunk.offset, chunk.size)

    def _file(self, group: int) -> str:
        return self._files[int(self._index["group_files"][group])]

    def _decode(self, group: int) -> RowGroup:
        path, number = self._file(group), int(self._index["group_numbers"][group])
        metadata = self._metadata(path)
        is_same = number < metadata.num_row_groups
        if not is_same or chunk_of(metadata, number, self._leaf) != indexed_chunk(self._index, group):
            raise OSError(f"{path} has changed since it was opened; start again to read the new file")
        with open_table_file(path) as file:
            return decode_group(file, metadata, number, self._leaf)

    def _content_sample(self) -> bytes:
        return np.stack([self._index["group_rows"], self._index["group_sizes"]]).tobytes()


def parquet_files(pattern: str | Path | Iterable[str | Path], *, cache_gib: float = CACHE_GIB) -> ParquetSource:
    """Open the images in parquet files, in the order of the files.

    The column of images is found if the package datasets has written the files, or if it is the only binary column or
    the only struct with the field "bytes". The column of labels is found if it is a ClassLabel, or has a usual name and
    numbers or strings. The footers and labels are read once, and their index is kept for the next start (see
    index_cache). An image is decoded with its whole row group, so use TwoViewLoader's shuffle_window.

    Args:
        pattern: Path of a file, or several paths. A path may have wildcards (set/*.parquet) and braces. With
            ?image=COLUMN&label=COLUMN at the end, these columns are read; ?label= reads no labels.
        cache_gib: Memory for decoded row groups, in GiB, more than 0. The row group that is read is kept in any case.

    Raises:
        ValueError: If a file is missing or not a whole parquet file, the files have different columns, or it is not
            clear which columns are read. Also if pyarrow is not installed.

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
    import_pyarrow(patterns[0])
    files = [file for each, _ in chosen for file in expanded(each, "file")]
    choices = chosen[0][1]
    texts = (f"{key}={value}" for key, value in sorted(choices.items()))
    key = "\n".join(["parquet", *texts, *map(os.path.abspath, files)])
    return ParquetSource(files, cached_index(key, lambda: index_of(files, choices)), cache_gib=cache_gib)


def _read_metadata(path: str) -> Any:
    from pyarrow.parquet import read_metadata

    with open_table_file(path) as file:
        return read_metadata(file)
