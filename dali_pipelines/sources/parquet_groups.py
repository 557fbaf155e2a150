"""Decode the images of one row group of a parquet file."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.errors import StorageError


class BinaryRows(NamedTuple):
    """Consecutive rows of a binary column, without a copy of their bytes.

    Args:
        values: Bytes of all rows, one after the other, (b,) uint8.
        ends: Begin of the first row, and end of each row, (n + 1,) int32 or int64.
        is_valid: Which rows are not null, (n,) bool; None if all are.
    """

    values: NDArray[np.uint8]
    ends: NDArray[np.int32] | NDArray[np.int64]
    is_valid: NDArray[np.bool_] | None


class RowGroup:
    """The decoded images of a row group.

    Args:
        parts: The rows that could be decoded, in order.
        error: Reason why the other rows could not be decoded, if there are any.
    """

    def __init__(self, parts: list[BinaryRows], error: Exception | None = None) -> None:
        self._parts = parts
        self._firsts = np.cumsum([0, *(len(part.ends) - 1 for part in parts)]).tolist()
        self._error = error
        self.is_whole = error is None
        self.n_bytes = sum(part.values.nbytes + part.ends.nbytes for part in parts)

    def image(self, row: int) -> NDArray[np.uint8]:
        """Return the bytes of an image, (n,) uint8.

        Args:
            row: Number of the row in the group.

        Raises:
            ValueError: If the image is null.
            OSError: If the row could not be decoded.
        """
        if row >= self._firsts[-1]:
            raise OSError(f"the row group is damaged: {self._error}") from self._error
        part = bisect_right(self._firsts, row) - 1
        values, ends, is_valid = self._parts[part]
        row -= self._firsts[part]
        if is_valid is not None and not is_valid[row]:
            raise ValueError("the image is null; a path alone is not read, so write the bytes of its file into the row")
        return values[ends[row] : ends[row + 1]]


def decode_group(file: Any, metadata: Any, number: int, leaf: str) -> RowGroup:
    """Decode the images of a row group. If a page is damaged, the rows before it are decoded.

    Args:
        file: Parquet file, open for reading.
        metadata: Metadata of the file, a pyarrow FileMetaData.
        number: Number of the row group in the file.
        leaf: Path of the column of bytes.

    Raises:
        StorageError: If the storage does not answer.
    """
    from pyarrow.parquet import ParquetFile

    reader = ParquetFile(file, metadata=metadata, pre_buffer=False)
    try:
        table = reader.read_row_group(number, columns=[leaf], use_threads=False)
        return RowGroup([binary_rows(chunk) for chunk in table.column(0).chunks])
    except StorageError:
        raise
    except Exception as error:  # pyarrow raises whatever its decoders raise
        failure = error
    parts: list[BinaryRows] = []
    try:
        batches = reader.iter_batches(1, row_groups=[number], columns=[leaf], use_threads=False)
        parts.extend(binary_rows(batch.column(0)) for batch in batches)  # an error keeps those before it
    except StorageError:
        raise
    except Exception as error:  # as above
        failure = error
    return RowGroup(parts, failure)


def binary_rows(array: Any) -> BinaryRows:
    """Return the rows of an Arrow array without a copy.

    Args:
        array: Array of binary or of a struct with the binary field "bytes". A struct's other fields are not used.
    """
    from pyarrow import types

    if types.is_struct(array.type):
        array = array.flatten()[array.type.get_field_index("bytes")]
    if not types.is_binary(array.type):
        array = array.cast("large_binary")  # of a view, which polars writes
    width = np.int64 if types.is_large_binary(array.type) else np.int32
    _, ends, buffer = array.buffers()
    values = (
        np.frombuffer(buffer, dtype=np.uint8) if buffer is not None and buffer.size else np.empty(0, dtype=np.uint8)
    )
    # Several threads read them.
    values.flags.writeable = False
    return BinaryRows(
        values,
        np.frombuffer(ends, dtype=width)[array.offset : array.offset + len(array) + 1]
        if len(array)
        else np.zeros(1, width),
        array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None,
    )
