"""What the columns of a list of files are: a header that names them, or a separator that the list should not have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from dali_pipelines.sources.files import IMAGE_SUFFIXES

PATH_NAMES = (
    *("path", "paths", "file", "files", "filename", "filenames", "file_name", "filepath", "file_path", "name"),
    *("image", "images", "image_path", "imagepath", "image_file", "image_name", "imagename", "image_id", "imageid"),
    *("img", "img_path", "img_file", "img_name", "picture", "photo"),
)
LABEL_NAMES = (
    *("label", "labels", "label_name", "label_id", "class", "class_name", "classname", "class_id", "class_label"),
    *("target", "targets", "category", "category_name", "category_id", "y", "wnid", "synset"),
)
_SEPARATORS = (";", "\t", ",", "|", " ")


class Columns(NamedTuple):
    """Which columns of a row are read.

    Args:
        width: How many columns every row has.
        path: Number of the one with the paths.
        label: Number of the one with the labels, if there is one.
    """

    width: int
    path: int = 0
    label: int | None = None


def header_columns(row: Sequence[str]) -> Columns | None:
    """Return the columns that a header names, or None if the row is no header.

    Args:
        row: The first of the list.

    Raises:
        ValueError: If it is a header that leaves open which column is the path or the label.
    """
    names = [re.sub(r"[ -]+", "_", cell.strip().lower()) for cell in row]
    paths = [number for number, name in enumerate(names) if name in PATH_NAMES]
    labels = [number for number, name in enumerate(names) if name in LABEL_NAMES]
    if not paths or any(map(has_image_suffix, row)):
        return None
    for numbers, what in ((paths, "paths"), (labels, "labels")):
        if len(numbers) > 1:
            named = ", ".join(names[number] for number in numbers)
            raise ValueError(f"the columns {named} all name {what}; keep one of them")
    if len(names) > 1 and not labels:
        others = ", ".join(repr(cell[:100]) for number, cell in enumerate(row) if number != paths[0])
        raise ValueError(
            f"none of the columns {others} is known as the label; name it 'label', or keep the column of paths alone"
        )
    return Columns(len(row), paths[0], labels[0] if labels else None)


def is_unknown_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether the first row looks like names of columns, because it has no image and the second row has one.

    Args:
        first: The first row, which header_columns does not know.
        second: The row after it.
    """
    is_path = any(has_image_suffix(cell) or "/" in cell for cell in first)
    return not is_path and any(map(has_image_suffix, second))


def foreign_separator(cell: str, own: str | None) -> str | None:
    """Return the separator that splits a cell into an image or a known name of a column and something else.

    Args:
        cell: Of a row; a path that exists needs no such look.
        own: The separator that the list should have.
    """
    for separator in _SEPARATORS:
        parts = [part.strip().strip("\"'") for part in cell.split(separator)]
        is_header = any(part.lower() in PATH_NAMES for part in parts) and any(
            part.lower() in LABEL_NAMES for part in parts
        )
        if separator != own and len(parts) > 1 and (is_header or any(map(has_image_suffix, parts[:-1]))):
            return separator
    return None


def has_image_suffix(name: str) -> bool:
    """Whether a path ends as images do."""
    return name.lower().endswith(IMAGE_SUFFIXES)
