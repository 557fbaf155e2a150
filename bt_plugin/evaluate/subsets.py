"""Parts of a source of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from bt_plugin.errors import RecipeError, file_error
from dali_pipelines.regular_files import read_regular
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
        path: Of the file; a line is an image's name in the source, or the last part of it, with all blanks within.

    Raises:
        RecipeError: If it cannot be read, names what is not in the source, or has a name that several images end with.
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
    if missing or not lines:
        what = f"{len(missing)} of its {len(wanted)} names, such as {min(missing)!r}," if missing else "any name"
        raise RecipeError(f"finetune.subset: {path}: data.train does not have {what} in it")
    return Subset(source, np.array(sorted(chosen), dtype=np.int64))


def _lines(path: str) -> list[str]:
    """The names in a file, without empty lines. Bytes that are not UTF-8 are kept, as names of files have them."""
    try:
        content = read_regular(Path(os.path.expanduser(path)))
    except OSError as error:
        raise file_error(error, path, "finetune.subset") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise RecipeError(f"finetune.subset: {path} is not UTF-8; save it as UTF-8, a name a line")
    lines = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n")
    return [line.strip() for line in lines if line.strip()]
