"""Features of images that need no labels, in a file for search, clustering or maps."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_plugin.errors import RecipeError
from bt_plugin.evaluate.features import Features
from bt_plugin.runs.atomic_file import check_output, write_atomically

SUFFIXES = (".npz", ".parquet")


def check_embeddings_output(path: Path) -> None:
    """Refuse an output that could not be written, before any time is spent.

    Raises:
        RecipeError: If the file is there, or is of an unknown kind, or its folder is not there.
        ImportError: If it is Parquet, and pyarrow is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise RecipeError(f"--output: {path} must end with {' or '.join(SUFFIXES)}")
    if path.exists():
        raise RecipeError(f"--output: {path} is there already; name another file, or remove it")
    if not path.parent.is_dir():
        raise RecipeError(f"--output: {path.parent} is no folder; make it first")
    check_output(path, "--output")
    if path.suffix == ".parquet":
        _pyarrow()


def write_embeddings(path: Path, *, features: Features, names: list[str], classes: tuple[str, ...]) -> None:
    """Writes names, labels where there are any, and features, whole or not at all.

    Args:
        path: .npz, with the arrays names, features, labels, classes; or .parquet, with the columns name, label
            (the class's name) and features.
        features: In the order of the names.
        names: Of the images.
        classes: Names of the classes; empty where there are none.
    """
    content = io.BytesIO()
    values: NDArray[np.float32] = features.values.numpy()
    if path.suffix == ".npz":
        np.savez(
            content,
            names=np.array(names),
            features=values,
            labels=features.targets.numpy(),
            classes=np.array(classes, dtype=str),
        )
    else:
        arrow, parquet = _pyarrow()
        # Arrow's text is UTF-8, which names of files need not be.
        plain = [name.encode("utf-8", "replace").decode() for name in names]
        columns = {"name": plain, "features": list(values)}
        if classes:
            columns["label"] = [classes[target] for target in features.targets]
        parquet.write_table(arrow.table(columns), content)
    write_atomically(path, content.getvalue())


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("--output: .parquet needs pyarrow: pip install pyarrow, or take .npz") from error
    return pyarrow, parquet
