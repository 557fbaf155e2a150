"""Parts of a source of images."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from bt_plugin.errors import RecipeError
from dali_pipelines.sources import ImageSource, Subset


def at_most(source: ImageSource, most: int, seed: int) -> ImageSource:
    """The source, or so many of its images, drawn by the seed and in their order."""
    if len(source) <= most:
        return source
    kept = np.sort(np.random.default_rng(seed).choice(len(source), most, replace=False))
    return Subset(source, kept)


def class_balanced(source: ImageSource, fraction: float, seed: int) -> ImageSource:
    """A share of each class, at least one image of each, a function of the names' order and the seed.

    Args:
        source: With labels.
        fraction: Of the images, above 0, at most 1.
        seed: Of the choice.
    """
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(source.labels):
        members = np.flatnonzero(source.labels == label)
        count = max(1, round(fraction * len(members)))
        chosen.append(rng.choice(members, count, replace=False))
    return Subset(source, np.sort(np.concatenate(chosen)))


def listed(source: ImageSource, path: str) -> ImageSource:
    """The images that a file names, one a line, such as the paper's 1percent.txt and 10percent.txt.

    Args:
        source: With labels.
        path: Of the file; a line is an image's name in the source, or the last part of it.

    Raises:
        RecipeError: If it cannot be read, or names what is not in the source.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").split()
    except OSError as error:
        raise RecipeError(f"finetune.subset: {path} cannot be read: {error}") from error
    at = {PurePosixPath(name).name: index for index, name in enumerate(source.names)}
    at |= {name: index for index, name in enumerate(source.names)}
    missing = [line for line in lines if line not in at]
    if missing or not lines:
        what = f"{len(missing)} of its {len(lines)} names, such as {missing[0]}," if missing else "any name"
        raise RecipeError(f"finetune.subset: {path}: data.train does not have {what} in it")
    return Subset(source, np.array(sorted({at[line] for line in lines}), dtype=np.int64))
