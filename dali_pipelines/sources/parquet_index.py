"""Index parquet files from their footers: row groups, and where the images of each are stored."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from dali_pipelines.errors import StorageError
from dali_pipelines.regular_files import open_regular
from dali_pipelines.sources.index_cache import Built, Index
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.paths import unreadable
from dali_pipelines.sources.patterns import prefixes_of
from dali_pipelines.sources.remote import lost
from dali_pipelines.sources.table_columns import Columns, columns_of
from dali_pipelines.sources.table_labels import TableLabels
from dali_pipelines.storage.object_file import TailFile
from dali_pipelines.storage.stores import Object, Range
from dali_pipelines.storage.transfers import fetch

# Threads that read footers. On network storage they mostly wait, so they may be more than the cores.
_READERS = 8
_REMOTE_READERS = 32
# Keys of the index that describe a row group; the last four are the fields of its Chunk.
_GROUP_KEYS = ("group_files", "group_numbers", "group_rows", "group_offsets", "group_sizes", "group_decoded_bytes")

# Names for messages, of the fields of Columns.
_CALLED = {
    "image": "the image column",
    "is_struct": "whether the image is a struct",
    "label": "the label column",
    "label_kind": "the type of the label",
    "classes": "the list of the classes' names",
}


class Chunk(NamedTuple):
    """The images of a row group in the file: one column chunk.

    Args:
        rows: Number of images.
        offset: Position of the chunk's first byte in the file.
        size: Number of the chunk's bytes.
        decoded_bytes: Number of its bytes when it is decoded.
    """

    rows: int
    offset: int
    size: int
    decoded_bytes: int


class _Footer(NamedTuple):
    columns: Columns
    chunks: list[Chunk]
    has_images: bool
    labels: Any
    content: bytes


def open_table_file(place: str | Object) -> BinaryIO:
    """Open a parquet file for reading. Every byte of a local file, and of a remote footer, is read through this.

    Args:
        place: Path of the file, or the object of a store.

    Raises:
        OSError: If the file cannot be opened.
    """
    return cast(BinaryIO, TailFile(place, _fetched)) if isinstance(place, Object) else open_regular(place)


def _fetched(wanted: Range) -> bytes:
    try:
        return fetch(wanted)
    except FileNotFoundError as error:
        raise lost(error) from error


def chunk_of(metadata: Any, number: int, leaf: str) -> Chunk:
    """Return where the images of a row group are stored.

    Args:
        metadata: Metadata of the file, a pyarrow FileMetaData.
        number: Number of the row group in the file.
        leaf: Path of the column of bytes.
    """
    group = metadata.row_group(number)
    column = next(
        column for column in (group.column(each) for each in range(group.num_columns)) if column.path_in_schema == leaf
    )
    offset = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset is not None:
        offset = min(offset, column.dictionary_page_offset)
    return Chunk(group.num_rows, offset, column.total_compressed_size, column.total_uncompressed_size)


def indexed_chunk(index: Index, group: int) -> Chunk:
    """Return where the images of a row group are stored, from the index.

    Args:
        index: Index of parquet files.
        group: Number of the row group, counted over all files.
    """
    return Chunk(*(int(index[key][group]) for key in _GROUP_KEYS[2:]))


def index_of(files: Sequence[str], choices: Mapping[str, str], *, objects: Sequence[Object] | None = None) -> Built:
    """Return the index of parquet files with the same columns.

    Args:
        files: Paths or URLs of the files, for names and messages.
        choices: Names of the columns that the user chose (see columns_of).
        objects: The files, if they are objects of a store.

    Returns:
        The arrays of the index by name, and the files that it depends on.

        - names, ends: the images' names, FILE/ROW, packed as in Names.
        - labels: the class number of each image, (n,) int64; empty without labels.
        - classes, class_ends: the names of the classes, packed.
        - leaf: the path of the column of bytes, in UTF-8.
        - group_files, group_numbers: file of each row group, and its number in the file, (g,) int64.
        - group_rows, group_offsets, group_sizes, group_decoded_bytes: the fields of its Chunk, (g,) int64.
        - footers, footer_ends: of objects only, their footers, each as a file without rows, and its end.

    Raises:
        ValueError: If a file is not a whole parquet file, its columns are not those of the first file or not clear, no
            row has an image, or a label is not valid.
    """
    groups: list[tuple[int, int, Chunk]] = []
    rows: list[int] = []
    footers: list[bytes] = []
    first: _Footer | None = None
    for number, footer in enumerate(_footers(files, objects, choices)):
        if first is None:
            first, labels, has_images = footer, TableLabels(footer.columns), False
        _check_same(first.columns, footer.columns, files[0], files[number])
        has_images |= footer.has_images
        groups += ((number, each, chunk) for each, chunk in enumerate(footer.chunks) if chunk.rows)
        footers.append(footer.content)
        rows.append(sum(chunk.rows for chunk in footer.chunks))
        if footer.labels is not None:
            with _named(files[number]):
                labels.add(footer.labels)
    assert first is not None, "there is at least one file"
    if not groups:
        raise ValueError(f"{files[0]}: {len(files)} file(s) have no rows; give files with images")
    if not has_images:
        raise ValueError(
            f"{files[0]}: the column {first.columns.image!r} has no bytes, only paths; write the images' bytes into it"
        )
    with _named(files[0]):
        numbers, classes = labels.numbered()
    names = Names.of(f"{prefix}/{row}" for prefix, count in zip(prefixes_of(files), rows) for row in range(count))
    packed_classes = Names.of(classes)
    table = np.array([(file, each, *chunk) for file, each, chunk in groups], dtype=np.int64).T
    index: Index = {
        "names": names.block,
        "ends": names.ends,
        "labels": np.empty(0, dtype=np.int64) if numbers is None else numbers,
        "classes": packed_classes.block,
        "class_ends": packed_classes.ends,
        "leaf": np.frombuffer(first.columns.leaf.encode(), dtype=np.uint8),
        **{key: np.ascontiguousarray(row) for key, row in zip(_GROUP_KEYS, table)},
    }
    if objects is None:
        return Built(index, files)
    index["footers"] = np.frombuffer(b"".join(footers), dtype=np.uint8)
    index["footer_ends"] = np.cumsum([len(each) for each in footers])
    return Built(index, [])


def _footers(files: Sequence[str], objects: Sequence[Object] | None, choices: Mapping[str, str]) -> Iterator[_Footer]:
    with ThreadPoolExecutor(_READERS if objects is None else _REMOTE_READERS) as threads:
        places: Sequence[str | Object] = files if objects is None else objects
        started = [threads.submit(_read_footer, path, place, choices) for path, place in zip(files, places)]
        try:
            for each in started:
                yield each.result()
        finally:
            # After an error, the other files are not read.
            threads.shutdown(wait=False, cancel_futures=True)


def _read_footer(path: str, place: str | Object, choices: Mapping[str, str]) -> _Footer:
    import pyarrow.parquet

    try:
        opened = open_table_file(place)
    except OSError as error:
        raise unreadable(path, error) from error
    with opened:
        with _named(path, "it must be a whole parquet file, so download or write it again"):
            file = pyarrow.parquet.ParquetFile(opened, pre_buffer=False)
            metadata, schema = file.metadata, file.schema_arrow
        with _named(path):
            columns = columns_of(schema, choices)
        chunks = [chunk_of(metadata, number, columns.leaf) for number in range(metadata.num_row_groups)]
        labels = None
        if columns.label is not None:
            remedy = "download or write the file again, or add ?label= to the path for no labels"
            with _named(f"{path}, column {columns.label!r}", remedy):
                labels = file.read([columns.label], use_threads=False).column(columns.label)
        content = io.BytesIO()
        if isinstance(place, Object):
            metadata.write_metadata_file(content)
        return _Footer(columns, chunks, _has_images(metadata, columns.leaf), labels, content.getvalue())


def _has_images(metadata: Any, leaf: str) -> bool:
    """Return whether a file may have a row with bytes. Without statistics, it may."""
    schema = [metadata.schema.column(each).path for each in range(metadata.num_columns)]
    for number in range(metadata.num_row_groups):
        column = metadata.row_group(number).column(schema.index(leaf))
        statistics = column.statistics
        if statistics is None or not statistics.has_null_count or statistics.null_count < column.num_values:
            return True
    return False


def _check_same(first: Columns, other: Columns, first_path: str, path: str) -> None:
    for what, one, two in zip(first._fields, first, other):
        if one != two:
            shown = "" if what == "classes" else f", {two!r} and {one!r}"
            raise ValueError(
                f"{path}: {_CALLED[what]} differs from that of {first_path}{shown}; give files of one set, with the"
                " same columns"
            )


@contextmanager
def _named(path: str, remedy: str = "") -> Iterator[None]:
    """Name the file in a ValueError. With a remedy, name it in any error: pyarrow raises whatever its parsers raise."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if remedy:
            raise ValueError(f"{path}: {type(error).__name__}: {error}; {remedy}") from error
        if isinstance(error, ValueError):
            raise ValueError(f"{path}: {error}") from error
        raise
