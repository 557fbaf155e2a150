"""Write the features of images to a file for search, clustering or maps. Labels are not needed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt_plugin.errors import RecipeError
from bt_plugin.evaluation.features import Features
from bt_plugin.runs.atomic_file import check_output, write_atomically

SUFFIXES = (".npz", ".parquet")


def check_embeddings_output(path: Path) -> None:
    """Raise if the output cannot be written, before any image is embedded.

    Args:
        path: Path of the output file.

    Raises:
        RecipeError: If the file already exists, has an unknown suffix, or its folder does not exist.
        FileError: If the file cannot be written there.
        ImportError: If the file is Parquet and pyarrow is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise RecipeError(f"--output: {path} must end with {' or '.join(SUFFIXES)}")
    if path.exists():
        raise RecipeError(f"--output: {path} already exists; name another file, or remove it")
    if not path.parent.is_dir():
        raise RecipeError(f"--output: {path.parent} is not a folder; create it first")
    check_output(path, "--output")
    if path.suffix == ".parquet":
        _pyarrow()


def write_embeddings(path: Path, *, features: Features, names: list[str], classes: tuple[str, ...]) -> None:
    """Write names, features and labels. An interrupted write leaves no file.

    Args:
        path: Path of the output file. A .npz file has the arrays names, features, labels and classes. A .parquet file
            has the columns name and features, and label, the name of the class, if there are classes.
        features: Features of the images, in the order of the names.
        names: Names of the images.
        classes: Names of the classes. Empty if there are none.
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
        # Arrow's strings are UTF-8, but names of files may have other bytes.
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
        raise ImportError("--output: .parquet needs pyarrow: pip install pyarrow, or use .npz") from error
    return pyarrow, parquet
