"""Select subsets of a source of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from bt_plugin.errors import RecipeError, file_error
from dali_pipelines.regular_files import read_regular
from dali_pipelines.sources import ImageSource, Subset, each_once


def at_most(source: ImageSource, most: int, seed: int) -> ImageSource:
    """Return the source without its weights, or a random subset of it if it is larger. The images keep their order.

    Args:
        source: Images to choose from.
        most: Largest number of images, 1 or more.
        seed: Seed of the choice.
    """
    if len(source) <= most:
        return each_once(source)
    kept = np.sort(np.random.default_rng(seed).choice(len(source), most, replace=False))
    return Subset(source, kept)


def class_balanced(source: ImageSource, fraction: float, seed: int) -> ImageSource:
    """Return a random fraction of each class, at least one image per class.

    The choice depends on the order of the images and on the seed only.

    Args:
        source: Images with labels.
        fraction: Fraction of the images of each class, above 0, at most 1.
        seed: Seed of the choice.
    """
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(source.labels):
        members = np.flatnonzero(source.labels == label)
        count = max(1, round(fraction * len(members)))
        chosen.append(rng.choice(members, count, replace=False))
    return Subset(source, np.sort(np.concatenate(chosen)))


def listed(source: ImageSource, path: str) -> ImageSource:
    """Return the images that a text file names, one per line, such as the paper's 1percent.txt and 10percent.txt.

    Args:
        source: Images to choose from.
        path: Path of the file. A line is the name of an image in the source, or the part of it after the last slash.
            Blanks within a name belong to it.

    Raises:
        RecipeError: If the file is not UTF-8, names an image that is not in the source, or names several images at
            once.
        FileError: If the file cannot be read.
    """
    lines = _lines(path)
    wanted = set(lines)
    whole: dict[str, int] = {}
    plain: dict[str, list[int]] = {}
    for index, name in enumerate(source.names):
        if name in wanted:
            whole[name] = index
        if (last := name.rpartition("/")[2]) in wanted:
            plain.setdefault(last, []).append(index)
    missing, chosen = [], set()
    for line in wanted:
        found = [whole[line]] if line in whole else plain.get(line, [])
        if len(found) > 1:
            first, second = source.names[found[0]], source.names[found[1]]
            raise RecipeError(
                f"finetune.subset: {path}: {line!r} is the name of {len(found)} images, such as {first} and {second};"
                " write FOLDER/NAME"
            )
        missing += [line] * (not found)
        chosen.update(found)
    if missing:
        raise RecipeError(
            f"finetune.subset: {path}: {len(missing)} of its {len(wanted)} names, such as {min(missing)!r}, are not in"
            " data.train; write one name of a training image per line, as FOLDER/NAME or NAME, such as"
            f" {source.names[0]!r}"
        )
    if not lines:
        raise RecipeError(
            f"finetune.subset: {path}: the file has no names; write one name of a training image per line"
        )
    return Subset(source, np.array(sorted(chosen), dtype=np.int64))


def _lines(path: str) -> list[str]:
    """Return the lines of a file that are not empty. Bytes that are not UTF-8 are kept, as in names of files."""
    try:
        content = read_regular(Path(os.path.expanduser(path)))
    except OSError as error:
        raise file_error(error, path, "finetune.subset") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise RecipeError(f"finetune.subset: {path} is not UTF-8; save it as UTF-8, with one name per line")
    lines = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n")
    return [line.strip() for line in lines if line.strip()]
