"""What is kept of an evaluation to be drawn: RUN/pictures/step-STEP.npz, some 20 KB each, and views.png."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PICTURES = "pictures"
VIEWS = "views.png"
# Cells along a side of a heatmap: each is seen on a screen.
SIDE = 64
BIN_EDGES = np.linspace(-1, 1, 81)

Array = NDArray[Any]


class Snapshot(NamedTuple):
    """Of the embeddings of two views of the same images.

    Shape:
        - c_whole: at most (SIDE, SIDE) float32: C in blocks, of each the root of its mean square.
        - c_first: at most (SIDE, SIDE) float32: the first rows and columns of C.
        - diagonal_counts, off_diagonal_counts: entries of C by BIN_EDGES.
        - spectrum: (min(N, D),) float32, the singular values of the first views' embeddings, falling.
    """

    c_whole: Array
    c_first: Array
    diagonal_counts: Array
    off_diagonal_counts: Array
    spectrum: Array


class Album:
    """The pictures of a run, of each step at most one.

    Args:
        run_dir: Of the run.
        step: That the run continues from; later pictures are of steps that will be done again, and go.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self._folder = run_dir / PICTURES
        for later, path in _files(self._folder).items():
            if later > step:
                path.unlink()

    def add(self, step: int, snapshot: Snapshot) -> None:
        """Keeps it; it is there whole or not at all."""
        self._folder.mkdir(exist_ok=True)
        partial = self._folder / f".step-{step}.partial"
        with open(partial, "wb") as file:
            np.savez_compressed(file, **snapshot._asdict())
        os.replace(partial, self._folder / f"step-{step}.npz")

    def add_views(self, picture: Array) -> bool:
        """Keeps a picture of the views that are looked at, which are the same each time; whether it is the first."""
        path = self._folder / VIEWS
        if path.exists():
            return False
        self._folder.mkdir(exist_ok=True)
        partial = path.with_name(f".{VIEWS}.partial")
        Image.fromarray(picture).save(partial, "png")
        os.replace(partial, path)
        return True


def read_album(run_dir: Path) -> dict[int, Snapshot]:
    """The pictures of a run by their steps, in order; one that cannot be read is left out."""
    album = {}
    for step, path in sorted(_files(run_dir / PICTURES).items()):
        try:
            with np.load(path) as arrays:
                album[step] = Snapshot(**{name: arrays[name] for name in Snapshot._fields})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            continue
    return album


def _files(folder: Path) -> dict[int, Path]:
    return {int(path.stem.removeprefix("step-")): path for path in folder.glob("step-*.npz")}
