"""The source of images in parquet files that are opened."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources.base import ImageSource
from dali_pipelines.sources.group_cache import GroupCache
from dali_pipelines.sources.index_cache import Index
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.parquet_groups import RowGroup, decode_group
from dali_pipelines.sources.parquet_index import chunk_of, indexed_chunk, open_table_file

CACHE_GIB = 1.0
# Footers that stay in memory. One has some 100 KiB.
MOST_FOOTERS = 512


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
        self._metadata = lru_cache(MOST_FOOTERS)(_read_metadata)
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


def _read_metadata(path: str) -> Any:
    from pyarrow.parquet import read_metadata

    with open_table_file(path) as file:
        return read_metadata(file)
