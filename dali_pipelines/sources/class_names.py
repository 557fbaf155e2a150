"""Read the names of classes from classes.txt next to tar shards, whose .cls members are class numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.regular_files import read_regular
from dali_pipelines.sources.labels import WHOLE_NUMBER, numbered
from dali_pipelines.sources.paths import unreadable

CLASS_NAMES = "classes.txt"
_MOST_BYTES = 2**28


def named_classes(labels: Sequence[str], shards: Sequence[str]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Return the class number of each label, (n,) int64, and the classes.

    If all labels are whole numbers, and the shards' folder has a file classes.txt, line i of that file is the name of
    class i. Otherwise the labels themselves are the names (see numbered).

    Args:
        labels: Labels as text.
        shards: Paths of the shards.

    Raises:
        ValueError: If classes.txt cannot be read, has a name twice, or has no line for a label, or if the folders of
            the shards have different ones.
    """
    texts = set(labels)
    if not texts or not all(map(WHOLE_NUMBER.fullmatch, texts)):
        return numbered(labels)
    path, classes = _class_names(shards)
    if classes is None:
        return numbered(labels)
    number_of = {text: int(text) for text in texts}
    low, high = min(number_of.values()), max(number_of.values())
    if not 0 <= low <= high < len(classes):
        wrong = low if low < 0 else high
        raise ValueError(
            f"{path}: has {len(classes)} lines, for the classes 0 to {len(classes) - 1}, and a .cls member of the"
            f" shards is {wrong}; correct the file, or remove it to name the classes by their numbers"
        )
    return np.array([number_of[label] for label in labels], dtype=np.int64), classes


def _class_names(shards: Sequence[str]) -> tuple[Path, tuple[str, ...] | None]:
    """Return the path of the classes.txt of the shards, and its lines, or None if there is no such file."""
    folders = sorted({os.path.dirname(os.path.abspath(shard)) for shard in shards})
    paths = [Path(folder) / CLASS_NAMES for folder in folders]
    found = [_class_names_in(path) for path in paths]
    for path, lines in zip(paths, found):
        if lines != found[0]:
            raise ValueError(
                f"{path} and {paths[0]} differ, so a class number of these shards would have two names; open the"
                " shards of each folder alone, or give the folders equal files"
            )
    return paths[0], found[0]


def _class_names_in(path: Path) -> tuple[str, ...] | None:
    try:
        content = read_regular(path, _MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    lines = lines_of(content)
    if len(set(lines)) < len(lines):
        twice = next(line for number, line in enumerate(lines) if line in lines[:number])
        raise ValueError(f"{path}: has the class {twice!r} twice; give every class a name of its own")
    return lines


def lines_of(content: bytes) -> tuple[str, ...]:
    """Return the lines of the content of a classes.txt. Names that are not UTF-8 keep their bytes."""
    text = content.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n")
    return tuple(text.removesuffix("\n").split("\n"))
