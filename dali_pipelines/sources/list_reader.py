"""Read the lines of a list of image files."""

from __future__ import annotations

import codecs
import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources.checked_lines import CheckedLines
from dali_pipelines.sources.files import IMAGE_SUFFIXES
from dali_pipelines.sources.labels import MOST_CHARACTERS, numbered
from dali_pipelines.sources.list_columns import (
    LABEL_NAMES,
    PATH_NAMES,
    Columns,
    foreign_separator,
    has_image_suffix,
    header_columns,
    is_unknown_header,
)
from dali_pipelines.sources.names import Names
from dali_pipelines.storage.urls import check_url, is_url

# Suffixes of lists, and their separators of columns.
LIST_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": None}
_NOT_UTF_8 = "is not UTF-8, perhaps Latin-1; save the list as UTF-8"


class ListReader:
    """A reader of a list, line by line.

    Args:
        where: Path or URL of the list, for messages.
        suffix: Suffix of the list, a key of LIST_DELIMITERS.
        file: List, open for reading.
        folder: Folder that relative paths begin at. None if it is not on this machine.
    """

    def __init__(
        self, where: Path | str, *, suffix: str, file: io.FileIO | io.BytesIO, folder: Path | None = None
    ) -> None:
        self._path = where
        self._suffix = suffix
        self._file = file
        self._folder = folder
        self._delimiter = LIST_DELIMITERS[suffix]
        self.has_urls = False
        self._has_paths = False

    def paths(self, labels: list[str]) -> Iterator[str]:
        """Yield the paths in order, and append the labels to `labels`."""
        rows = self._rows(_text_of(io.BufferedReader(CheckedLines(self._file, self._path))))
        begun = list(islice((each for each in rows if _has_text(each[1])), 2))
        if not begun:
            return
        columns = self._header(begun)
        if columns is None:
            columns = self._without_header(*begun[0])
        else:
            del begun[0]
        count, path, label = columns.width, columns.path, columns.label
        for line, row in chain(begun, rows):
            name = row[path] if len(row) == count else ""
            # The common case has no function call, which would slow down a list of a million lines.
            if not name.isascii() or not name.lower().endswith(IMAGE_SUFFIXES):
                if not _has_text(row):
                    continue
                self._check_path(line, row, columns)
            if "://" in name:
                self._check_url(line, name)
            elif not self._has_paths:
                self._has_paths = True
                self._check_kinds(line)
            if label is not None:
                text = row[label]
                if not 0 < len(text) <= MOST_CHARACTERS or text.isspace() or not text.isascii():
                    self._check_label(line, row, columns)
                labels.append(sys.intern(text))
            yield os.path.expanduser(name) if name[:2] == "~/" else name

    def _rows(self, text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows, each with the number of its last line."""
        if self._delimiter is None:
            for number, line in enumerate(text, start=1):
                yield number, [line.rstrip("\r\n")]
            return
        reader = csv.reader(text, delimiter=self._delimiter, strict=True)
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise self._error(reader.line_num, f"{error}; correct the quotation marks") from error

    def _header(self, begun: Sequence[tuple[int, list[str]]]) -> Columns | None:
        """Return the columns that the first row names, or None if it is not a header."""
        line, first = begun[0]
        try:
            columns = header_columns(first)
        except ValueError as error:
            raise self._error(line, str(error)) from error
        if columns is None and len(begun) > 1 and is_unknown_header(first, begun[1][1]):
            self._check_separator(line, first[0])
            if not any(map(self._exists, first)):
                raise self._error(
                    line,
                    f"{_shown(first)} looks like a header with unknown names; name the columns"
                    f" {', '.join(PATH_NAMES[:4])} ... and {', '.join(LABEL_NAMES[:5])} ..., or remove the line",
                )
        return columns

    def _without_header(self, line: int, first: Sequence[str]) -> Columns:
        self._check_separator(line, first[0])
        if len(first) > 2:
            raise self._error(
                line, f"{_shown(first)} must be a path and a label; or write a header, such as path,label,id"
            )
        if len(first) == 2 and has_image_suffix(first[1]) and not has_image_suffix(first[0]) and self._exists(first[1]):
            raise self._error(line, f"{_shown(first)} has the path last; add the header label,path before it")
        return Columns(len(first), 0, 1 if len(first) > 1 else None)

    def _check_path(self, line: int, row: Sequence[str], columns: Columns) -> None:
        name = row[columns.path] if columns.path < len(row) else ""
        self._check_separator(line, name)
        if len(row) != columns.width or not name:
            expected = "a path" + " and a label" * (columns.label is not None)
            others = f" among {columns.width} columns" if columns.width > 2 else ""
            raise self._error(line, f"{_shown(row)} must be {expected}{others}")
        # Bytes that are not UTF-8 may be a file's name.
        if not _is_text(name) and not self._exists(name):
            raise self._error(line, f"{_shown(row)} {_NOT_UTF_8}")

    def _check_url(self, line: int, name: str) -> None:
        if not is_url(name):
            return
        try:
            check_url(name)
        except ValueError as error:
            raise self._error(line, str(error)) from None
        if not self.has_urls:
            self.has_urls = True
            self._check_kinds(line)

    def _check_kinds(self, line: int) -> None:
        if self.has_urls and self._has_paths and self._folder is not None:
            raise self._error(line, "paths and URLs are mixed; write two lists, one of each kind")

    def _check_label(self, line: int, row: Sequence[str], columns: Columns) -> None:
        assert columns.label is not None, "labels are checked where there are any"
        label = row[columns.label]
        if not label.strip():
            raise self._error(line, f"{_shown(row)} has no label; give every line a label, or none")
        if len(label) > MOST_CHARACTERS:
            raise self._error(line, f"the label has {len(label)} characters; it may have at most {MOST_CHARACTERS}")
        # A class folder may have a name that is not UTF-8. Then the path is not UTF-8 either, and that is allowed.
        if not _is_text(label) and _is_text(row[columns.path]):
            raise self._error(line, f"{_shown(row)} {_NOT_UTF_8}")

    def _check_separator(self, line: int, cell: str) -> None:
        if has_image_suffix(cell):
            return
        separator = foreign_separator(cell, self._delimiter)
        if separator and not self._exists(cell):
            suffix = self._suffix
            named = next((other for other, own in LIST_DELIMITERS.items() if own == separator), None)
            remedy = f"name the list {named}" if named else "write path,label into a .csv"
            own = {",": "a comma", "\t": "a tab"}.get(self._delimiter or "", "only the path")
            raise self._error(
                line, f"{_shown([cell])} has the separator {separator!r}; a {suffix} list has {own}; {remedy}"
            )

    def _exists(self, name: str) -> bool:
        return self._folder is not None and os.path.lexists(os.path.join(self._folder, os.path.expanduser(name)))

    def _error(self, line: int, rule: str) -> ValueError:
        return ValueError(f"{self._path}, line {line}: {rule}")


def checked_classes(
    where: Path | str, names: Names, labels: list[str]
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Return the numbers of the labels of a list, and the classes.

    Args:
        where: Path or URL of the list, for messages.
        names: Paths of the list.
        labels: Labels as text.

    Raises:
        ValueError: If there are no paths, or two classes look the same.
    """
    if not names:
        raise ValueError(f"{where}: has no files; write one path per line")
    numbers, classes = numbered(labels)
    without_blanks = {name.strip(): name for name in classes}
    for name in classes:
        if (other := without_blanks[name.strip()]) != name:
            raise ValueError(f"{where}: the labels {name!r} and {other!r} differ only in whitespace; write one of them")
    return numbers, classes


def _text_of(file: io.BufferedReader) -> io.TextIOWrapper:
    """Return the text of a file without the byte-order mark. Python's own codec for the mark is slower."""
    if file.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    return io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")


def _has_text(row: Sequence[str]) -> bool:
    return any(cell.strip() for cell in row)


def _is_text(cell: str) -> bool:
    return cell.encode(errors="ignore").decode() == cell


def _shown(cells: Sequence[str]) -> str:
    """Return cells for a message: with escapes if needed, and at most 200 characters."""
    shown = repr(list(cells))
    return shown if len(shown) <= 200 else f"{shown[:200]}..."
