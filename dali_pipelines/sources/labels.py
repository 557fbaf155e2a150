"""Convert labels that are text to class numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The limit for one label. Longer text is not a label, and Python refuses to convert much longer numbers.
MOST_CHARACTERS = 1000
WHOLE_NUMBER = re.compile(rf"-?\d{{1,{MOST_CHARACTERS}}}")


def numbered(labels: Sequence[str]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Return the class number of each label, (n,) int64, and the classes.

    Classes are sorted as numbers if all are whole numbers, else as text. Without labels, the result is (None, ()).

    Args:
        labels: Labels as text.
    """
    if not labels:
        return None, ()
    classes = set(labels)
    if all(map(WHOLE_NUMBER.fullmatch, classes)):
        # Sort by their text too. Otherwise the order of 1 and 01 would differ between processes.
        ordered = sorted(classes, key=lambda name: (int(name), name))
    else:
        ordered = sorted(classes)
    number_of = {name: number for number, name in enumerate(ordered)}
    return np.array([number_of[label] for label in labels], dtype=np.int64), tuple(ordered)
