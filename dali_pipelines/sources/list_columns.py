"""Find the columns of a list of files: read its header, and detect a wrong separator."""

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
    """The columns of a list that are read.

    Args:
        width: Number of columns of every row.
        path: Number of the column of paths, from 0.
        label: Number of the column of labels, from 0, or None.
    """

    width: int
    path: int = 0
    label: int | None = None


def header_columns(row: Sequence[str]) -> Columns | None:
    """Return the columns that a header names, or None if the row is not a header.

    Args:
        row: First row of the list.

    Raises:
        ValueError: If the row is a header, but the column of the path or of the label is not clear.
    """
    names = [re.sub(r"[ -]+", "_", cell.strip().lower()) for cell in row]
    paths = [number for number, name in enumerate(names) if name in PATH_NAMES]
    labels = [number for number, name in enumerate(names) if name in LABEL_NAMES]
    if not paths or any(map(has_image_suffix, row)):
        return None
    for numbers, what in ((paths, "paths"), (labels, "labels")):
        if len(numbers) > 1:
            named = ", ".join(names[number] for number in numbers)
            raise ValueError(f"the columns {named} could all be the {what}; keep one of them")
    if len(names) > 1 and not labels:
        others = ", ".join(repr(cell[:100]) for number, cell in enumerate(row) if number != paths[0])
        raise ValueError(
            f"none of the columns {others} has a known label name; name it 'label', or keep only the paths"
        )
    return Columns(len(row), paths[0], labels[0] if labels else None)


def is_unknown_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether the first row looks like a header: it has no image, and the second row has one.

    Args:
        first: First row, for which header_columns returned None.
        second: Second row.
    """
    is_path = any(has_image_suffix(cell) or "/" in cell for cell in first)
    return not is_path and any(map(has_image_suffix, second))


def foreign_separator(cell: str, own: str | None) -> str | None:
    """Return a wrong separator in a cell, or None: it splits the cell into an image and more, or into a known header.

    Args:
        cell: Cell of a row. Do not call this for a path that exists.
        own: Separator that the list should have; None if it should have no columns.
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
    """Return whether a path has the suffix of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)
