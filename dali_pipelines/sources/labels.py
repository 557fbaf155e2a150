"""From the labels that people write to numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Of one label. Longer ones come from files that are no labels, and Python refuses to convert much longer numbers.
MOST_CHARACTERS = 1000
_WHOLE_NUMBER = re.compile(rf"-?\d{{1,{MOST_CHARACTERS}}}")


def numbered(labels: Sequence[str]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Each label's place among the classes, and the classes.

    Classes are sorted as numbers if all are whole numbers, else as text. No labels are (None, ()).
    """
    if not labels:
        return None, ()
    classes = set(labels)
    if all(map(_WHOLE_NUMBER.fullmatch, classes)):
        # By their text too, or the order of 1 and 01 would be another one in each process.
        ordered = sorted(classes, key=lambda name: (int(name), name))
    else:
        ordered = sorted(classes)
    number_of = {name: number for number, name in enumerate(ordered)}
    return np.array([number_of[label] for label in labels], dtype=np.int64), tuple(ordered)
