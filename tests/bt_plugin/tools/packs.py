"""Packed folders of tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_plugin.cli import main
from dali_pipelines.sources import ImageSource


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files except the state."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def packed(source: Path | str, folder: Path, *options: Any) -> int:
    """Return the exit code."""
    return main(["pack", str(source), str(folder), *map(str, options)])


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def contents(source: ImageSource) -> list[bytes]:
    return [source.read(index).tobytes() for index in range(len(source))]
