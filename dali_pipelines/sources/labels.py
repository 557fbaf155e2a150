"""From the labels that people write to numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def numbered(labels: Sequence[str]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Each label's place among the classes, and the classes.

    Classes are sorted as numbers if all are whole numbers, else as text. No labels are (None, ()).
    """
    if not labels:
        return None, ()
    classes = set(labels)
    ordered = sorted(classes, key=int if all(name.lstrip("-").isdecimal() for name in classes) else str)
    number_of = {name: number for number, name in enumerate(ordered)}
    return np.array([number_of[label] for label in labels], dtype=np.int64), tuple(ordered)
