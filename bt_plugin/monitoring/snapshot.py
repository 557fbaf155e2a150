"""Store what is drawn of an evaluation: RUN/pictures/step-STEP.npz, about 20 KB each, and views.png."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bt_plugin.runs.atomic_file import write_atomically
from dali_pipelines.regular_files import read_regular

logger = logging.getLogger(__name__)

PICTURES = "pictures"
VIEWS = "views.png"
# Cells along a side of a heatmap. With more, a cell would not be visible on a screen.
SIDE = 64
_MOST_BYTES = 2**24
_NAME = re.compile(r"step-([0-9]{1,15})\.npz")
BIN_EDGES = np.linspace(-1, 1, 81)

Array = NDArray[Any]


class CorrelationSnapshot(NamedTuple):
    """The correlation of the embeddings of two views of the same images.

    Shape:
        - c_whole: at most (SIDE, SIDE) float32, the root mean square of each block of C.
        - c_first: at most (SIDE, SIDE) float32, the first rows and columns of C.
        - diagonal_counts, off_diagonal_counts: number of entries of C in the bins of BIN_EDGES.
        - spectrum: (min(N, D),) float32, the singular values of the first views' embeddings in descending order.
    """

    c_whole: Array
    c_first: Array
    diagonal_counts: Array
    off_diagonal_counts: Array
    spectrum: Array


class SnapshotStore:
    """The store of a run's snapshots, at most one per step.

    Args:
        run_dir: Directory of the run.
        step: Step that the run resumes from. Later snapshots are removed, because those steps are done again.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self._folder = run_dir / PICTURES
        for later, path in _files(self._folder).items():
            if later > step and not path.is_dir():
                path.unlink()

    def add(self, step: int, snapshot: CorrelationSnapshot) -> None:
        """Store a snapshot. The file is complete, or does not exist."""
        content = io.BytesIO()
        np.savez_compressed(content, **snapshot._asdict())
        self._write(f"step-{step}.npz", content)

    def add_views(self, picture: Array) -> bool:
        """Store the picture of the views, which is the same for every evaluation. Return whether it is the first."""
        if (self._folder / VIEWS).exists():
            return False
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "png")
        self._write(VIEWS, content)
        return True

    def _write(self, name: str, content: io.BytesIO) -> None:
        self._folder.mkdir(exist_ok=True)
        write_atomically(self._folder / name, content.getvalue())


def read_snapshots(run_dir: Path) -> dict[int, CorrelationSnapshot]:
    """Return the snapshots of a run by step, in order. Unreadable files are left out with a warning."""
    snapshots = {}
    for step, path in sorted(_files(run_dir / PICTURES).items()):
        try:
            with np.load(io.BytesIO(read_regular(path, _MOST_BYTES)), allow_pickle=False) as arrays:
                snapshot = CorrelationSnapshot(**{name: arrays[name] for name in CorrelationSnapshot._fields})
            _check(snapshot)
        except Exception as error:  # NumPy raises whatever zip and zlib raise
            logger.warning("%s is left out: %s: %s", path, type(error).__name__, error)
        else:
            snapshots[step] = snapshot
    return snapshots


def _check(snapshot: CorrelationSnapshot) -> None:
    """Raise ValueError if an array differs in kind from those that runs write."""
    for name, array in snapshot._asdict().items():
        dimensions = 2 if name.startswith("c_") else 1
        counts = len(BIN_EDGES) - 1 if name.endswith("_counts") else None
        is_sound = array.ndim == dimensions and array.size > 0 and np.issubdtype(array.dtype, np.number)
        if not is_sound or np.iscomplexobj(array) or (counts is not None and len(array) != counts):
            raise ValueError(f"{name} has shape {array.shape} and type {array.dtype}")


def _files(folder: Path) -> dict[int, Path]:
    named = ((_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.npz"))
    return {int(match[1]): path for match, path in named if match}
