"""The source of images in parquet files behind URLs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources.base import Upcoming
from dali_pipelines.sources.index_cache import Index, cached_index
from dali_pipelines.sources.parquet_groups import RowGroup, decode_group
from dali_pipelines.sources.parquet_index import index_of
from dali_pipelines.sources.parquet_source import MOST_FOOTERS, ParquetSource
from dali_pipelines.sources.remote import lost, objects_at
from dali_pipelines.storage.eviction import UNKNOWN
from dali_pipelines.storage.object_file import RangeFile
from dali_pipelines.storage.options import Storage
from dali_pipelines.storage.read_ahead import ReadAhead, Use
from dali_pipelines.storage.stores import Object, Range
from dali_pipelines.storage.urls import scrubbed

# A window needs all its row groups at its begin, so they are fetched while the window before it is used. The bytes that
# are fetched ahead have a limit of their own.
_IMAGES_AHEAD = 4096


class RemoteParquetSource(ParquetSource):
    """A source of images in remote parquet files. What is fetched is the column chunk of a row group.

    Args:
        objects: Parquet files.
        reader: What fetches ranges ahead of their use.
        index: Index of the files, with their footers (see parquet_index.index_of).
        cache_gib: Memory for decoded row groups, in GiB, more than 0. The row group that is read is kept in any case.
    """

    reads_ahead = _IMAGES_AHEAD

    def __init__(self, objects: Sequence[Object], reader: ReadAhead, index: Index, *, cache_gib: float) -> None:
        super().__init__([each.url for each in objects], index, cache_gib=cache_gib)
        self._objects = objects
        self._reader = reader
        self._footer = lru_cache(MOST_FOOTERS)(self._parsed)

    def place(self, index: int) -> str:
        """Return the URL of an image's file, and the number of its row in the file."""
        return scrubbed(super().place(index))

    def announce(self, upcoming: Upcoming) -> None:
        """Fetch the row groups that are not decoded in memory. A row group is used next when any of its images is."""
        next_use: dict[int, int] = {}
        for group, use in zip(self._groups_of(upcoming.everyone), upcoming.next_use.tolist()):
            next_use[group] = min(use, next_use.get(group, UNKNOWN))
        fetched = {group: None for group in self._groups_of(upcoming.mine) if group not in self._decoded}
        self._reader.announce(
            [Use(self._range_of(group), next_use.get(group, UNKNOWN)) for group in fetched],
            [Use(self._range_of(group), use) for group, use in next_use.items() if group not in fetched],
            first_use=upcoming.first_use,
            uses=len(upcoming.everyone),
            own_uses=len(upcoming.mine),
        )

    def _groups_of(self, images: NDArray[np.int64]) -> list[int]:
        assert self.groups is not None, "a parquet file has row groups"
        found: list[int] = (np.searchsorted(self.groups, images, side="right") - 1).tolist()
        return found

    def _range_of(self, group: int) -> Range:
        place = self._objects[int(self._index["group_files"][group])]
        _, offset, size = self.byte_range(group)
        return Range(place.url, place.version, offset, size)

    def _decode(self, group: int) -> RowGroup:
        try:
            content = self._reader.read(self._range_of(group))
        except FileNotFoundError as error:
            raise lost(error) from error
        metadata = self._footer(int(self._index["group_files"][group]))
        number = int(self._index["group_numbers"][group])
        return decode_group(RangeFile(content, self.byte_range(group).offset), metadata, number, self._leaf)

    def _parsed(self, file: int) -> Any:
        from pyarrow.parquet import read_metadata

        ends = self._index["footer_ends"]
        content = self._index["footers"][ends[file - 1] if file else 0 : ends[file]]
        return read_metadata(io.BytesIO(content.tobytes()))

    def _content_sample(self) -> bytes:
        return super()._content_sample() + "\n".join(each.version for each in self._objects).encode()


def remote_parquet_files(
    urls: Sequence[str], choices: Mapping[str, str], *, cache_gib: float, storage: Storage
) -> RemoteParquetSource:
    """Open the images in remote parquet files (see parquet_files).

    Args:
        urls: URLs of the files.
        choices: Names of the columns that the user chose (see columns_of).
        cache_gib: Memory for decoded row groups, in GiB, more than 0.
        storage: Where fetched bytes are kept.

    Raises:
        ValueError: If a file is missing, must not be read or is not a whole parquet file, the files have different
            columns, or it is not clear which columns are read.
        StorageError: If a store does not answer.
    """
    objects = objects_at(urls, in_ranges=True)
    key = "\n".join(["remote parquet", *(f"{key}={value}" for key, value in sorted(choices.items())), *urls])
    seen = "\n".join(f"{each.version} {each.size}" for each in objects)
    index = cached_index(
        key, lambda: index_of(urls, choices, objects=objects), version=hashlib.sha256(seen.encode()).hexdigest()
    )
    reader = ReadAhead(storage, images_ahead=_IMAGES_AHEAD)
    return RemoteParquetSource(objects, reader, index, cache_gib=cache_gib)
