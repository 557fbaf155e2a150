"""Collect the labels of the files of a table, and number their classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources.base import NO_LABEL
from dali_pipelines.sources.labels import MOST_CHARACTERS, numbered
from dali_pipelines.sources.table_columns import Columns

_REMEDY = "give every row a label, or add ?label= to the path for no labels"


class TableLabels:
    """The labels of the files of a table, which are added in order.

    Args:
        columns: Columns of the files.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._numbers: list[NDArray[np.int64]] = []
        self._code_of: dict[str, int] = {}

    def add(self, column: Any) -> None:
        """Add the labels of the next file.

        Args:
            column: Column of labels, an Arrow ChunkedArray.

        Raises:
            ValueError: If a label is null, empty, too long, or not an index of a class.
        """
        import pyarrow
        import pyarrow.compute

        if column.null_count:
            row = pyarrow.compute.index(pyarrow.compute.is_null(column), True).as_py()
            raise self._error(row, "is null")
        if pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if self._columns.label_kind == "text":
            encoded = column.cast(pyarrow.large_string()).combine_chunks().dictionary_encode()
            texts = encoded.dictionary.to_pylist()
            codes = np.array([self._code_of.setdefault(text, len(self._code_of)) for text in texts], dtype=np.int64)
            numbers = encoded.indices.to_numpy(zero_copy_only=False)
            for place, text in enumerate(texts):
                if not 0 < len(text) <= MOST_CHARACTERS or text.isspace():
                    rule = f"has {len(text)} characters, more than {MOST_CHARACTERS}" if text.strip() else "is empty"
                    raise self._error(int(np.argmax(numbers == place)), rule)
            self._numbers.append(codes[numbers] if len(codes) else codes)
            return
        numbers = column.cast(pyarrow.int64()).to_numpy()
        if self._columns.label_kind == "class":
            wrong = (numbers < NO_LABEL) | (numbers >= len(self._columns.classes))
            if np.any(wrong):
                row = int(np.argmax(wrong))
                raise self._error(row, f"is {numbers[row]}, and there are {len(self._columns.classes)} classes")
        self._numbers.append(numbers)

    def numbered(self) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
        """Return the class number of each row, (n,) int64, and the classes; (None, ()) without labels.

        Raises:
            ValueError: If some rows have a class and others have -1, which means none.
        """
        if not self._numbers:
            return None, ()
        numbers = np.concatenate(self._numbers)
        if self._columns.label_kind == "class":
            unlabeled = numbers == NO_LABEL
            if unlabeled.all():
                return None, ()
            if unlabeled.any():
                raise self._error(int(np.argmax(unlabeled)), "is -1, and other rows have a class")
            return numbers, self._columns.classes
        if self._columns.label_kind == "text":
            texts = list(self._code_of)
        else:
            unique, numbers = np.unique(numbers, return_inverse=True)
            texts = [str(number) for number in unique]
        new, classes = numbered(texts)
        assert new is not None, "there is at least one label"
        return new[numbers], classes

    def _error(self, row: int, rule: str) -> ValueError:
        return ValueError(f"the label of row {row}, column {self._columns.label!r}, {rule}; {_REMEDY}")
