"""The source of images in tar files, as WebDataset writes them: KEY.jpg, and optionally KEY.cls with the class."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import bracex
import numpy as np
from numpy.typing import NDArray

from dali_pipelines.regular_files import open_regular
from dali_pipelines.sources.base import ImageSource
from dali_pipelines.sources.class_names import named_classes
from dali_pipelines.sources.files import ENDINGS, IMAGE_SUFFIXES
from dali_pipelines.sources.index_cache import Built, cached_index
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.paths import absolute, unreadable
from dali_pipelines.sources.tar_members import members_of

logger = logging.getLogger(__name__)

# More names mean a mistake in the range, and would fill the memory.
_MOST_SHARDS = 1_000_000
_MOST_CHARACTERS = 2**28
_CHOICE = re.compile(r"(.*\.tar)\?image=([^/?]+)", re.DOTALL | re.IGNORECASE)


class TarSource(ImageSource):
    """A source of images in tar files. Each is read from its position, so images can be shuffled over all shards.

    Args:
        shards: Paths of the tar files.
        names: Names of the images, SHARD/MEMBER.
        labels: Labels, as in ImageSource.
        classes: Names of the classes, as in ImageSource.
        shard_of: Number of each image's shard, (n,) int64.
        offsets: Position of each image's bytes in its shard, (n,) int64.
        sizes: Number of each image's bytes, (n,) int64.
    """

    kind = "encoded"

    def __init__(
        self,
        shards: Sequence[str],
        *,
        names: Sequence[str],
        labels: NDArray[np.int64] | None,
        classes: tuple[str, ...],
        shard_of: NDArray[np.int64],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> None:
        super().__init__(names, labels, classes)
        self._shards = shards
        self._shard_of = shard_of
        self._offsets = offsets
        self._sizes = sizes

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of an image, (n,) uint8."""
        size = int(self._sizes[index])
        with open_regular(self._shards[self._shard_of[index]]) as file:
            content = os.pread(file.fileno(), size, int(self._offsets[index]))
        if len(content) < size:
            raise OSError(f"the shard ends after {len(content)} of the image's {size} bytes")
        return np.frombuffer(content, dtype=np.uint8)

    def place(self, index: int) -> str:
        """Return the path of an image's shard, and the name of its member."""
        member = self.names[index].rpartition(".tar/")[2]
        return f"{self._shards[self._shard_of[index]]}, member {member}"

    def _content_sample(self) -> bytes:
        return self._sizes.tobytes()


def is_tar_pattern(path: str) -> bool:
    """Return whether a path is a pattern of tar shards (see tar_shards)."""
    return path.lower().endswith(".tar") or _CHOICE.fullmatch(path) is not None


def tar_shards(pattern: str | Path | Iterable[str | Path]) -> TarSource:
    """Open the images of tar shards, in the order of the shards.

    Every member with the suffix of an image is an image. Its label is the text of the .cls member with the same name,
    or with the same name up to the first dot. Either all images have a label or none. If the labels are whole numbers,
    and the shards' folder has a file classes.txt, line i of that file is the name of class i, counted from 0. The
    headers are read once, and their index is kept for the next start (see index_cache).

    Args:
        pattern: Path of a shard, or several paths. A path may have wildcards (shards/*.tar) and braces
            (train-{0000..0146}.tar). With ?image=jpg at the end, only members named KEY.jpg are images: 0.jpg, but not
            its mask 0.seg.png.

    Raises:
        ValueError: If a shard is missing or not a whole tar file, the shards have no images, or only some images have a
            label. Also if classes.txt has no line for a label, or it is not clear which members are the images.

    Examples:
        >>> source = tar_shards("shards/train-{0000..0146}.tar")
        >>> masked = tar_shards("shards/*.tar?image=jpg")
    """
    patterns = [os.fspath(pattern)] if isinstance(pattern, (str, Path)) else [os.fspath(each) for each in pattern]
    chosen = [_chosen(each) for each in patterns]
    if not chosen or any(suffixes != chosen[0][1] for _, suffixes in chosen):
        raise ValueError(
            f"{', '.join(patterns) or 'no pattern'}: is not allowed; give at least one shard, and all shards with the"
            " same ?image=SUFFIX or none"
        )
    shards = [shard for each, _ in chosen for shard in _expanded(each)]
    suffixes = chosen[0][1]
    key = "\n".join(["tar shards", *suffixes, *(os.path.abspath(shard) for shard in shards)])
    index = cached_index(key, lambda: _index_of(shards, suffixes))
    names, left_out = Names(index["names"], index["ends"]), Names(index["left_out"], index["left_out_ends"])
    if left_out:
        logger.warning(
            "%s: %d members are links and are left out, such as %s; write the shards with --dereference and"
            " --hard-dereference", patterns[0], len(left_out), left_out[0],
        )  # fmt: skip
    if not names:
        rule = (
            f"members named KEY.{' or KEY.'.join(suffixes)} are images"
            if suffixes
            else ENDINGS.replace("files", "members")
        )
        raise ValueError(f"{patterns[0]}: {len(shards)} shard(s) have no images; {rule}")
    labels = list(Names(index["labels"], index["label_ends"]))
    if not all(labels):
        if any(labels):
            raise ValueError(
                f"{names[labels.index('')]} has no .cls member, and other images have one; give all images one, or none"
            )
        labels = []
    numbers, classes = named_classes(labels, shards)
    return TarSource(
        shards,
        names=names,
        labels=numbers,
        classes=classes,
        shard_of=np.repeat(np.arange(len(shards)), index["counts"]),
        offsets=index["offsets"],
        sizes=index["sizes"],
    )


def _chosen(pattern: str) -> tuple[str, list[str]]:
    """Return the pattern without ?image=, and the suffixes in it."""
    match = _CHOICE.fullmatch(pattern)
    if match is None or os.path.isfile(absolute(pattern)):
        return pattern, []
    suffixes = [suffix.strip().lower() for suffix in match[2].split(",")]
    for suffix in suffixes:
        if not f".{suffix}".endswith(IMAGE_SUFFIXES):
            raise ValueError(
                f"{pattern}: ?image={suffix} is not allowed; it must be the text after the first dot of an image's"
                " name, such as jpg or seg.png"
            )
    return match[1], suffixes


def _expanded(pattern: str) -> list[str]:
    """Return the shards that a pattern names, sorted if it has wildcards."""
    literal, rest = _existing_part(absolute(pattern))
    shards = []
    for name in _without_braces(rest, pattern):
        path = os.path.join(literal, name) if name else literal
        if not glob.has_magic(name) or os.path.lexists(path):
            shards.append(path)
            continue
        found = sorted(glob.glob(os.path.join(glob.escape(literal), name), recursive=True))
        if not found:
            raise ValueError(f"{path}: no shard matches; correct the pattern")
        shards += found
    for shard in shards:
        try:
            os.stat(shard)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ValueError(f"{shard}: does not exist; correct the name or the range of {pattern}") from error
        except OSError as error:
            raise unreadable(shard, error) from error
    return shards


def _existing_part(path: Path) -> tuple[str, str]:
    """Return the part of a path that exists exactly as it is written, and the rest."""
    parts = path.parts
    count = 1
    while count < len(parts) and os.path.lexists(os.path.join(*parts[: count + 1])):
        count += 1
    return os.path.join(*parts[:count]), os.sep.join(parts[count:])


def _without_braces(name: str, pattern: str) -> list[str]:
    names: list[str] = []
    characters = 0
    try:
        for each in bracex.iexpand(name, limit=_MOST_SHARDS) if name else [""]:
            names.append(each)
            characters += len(each)
            if characters > _MOST_CHARACTERS:
                raise bracex.ExpansionLimitException
    except (bracex.ExpansionLimitException, RecursionError) as error:
        raise ValueError(
            f"{pattern[:200]}: the braces have more than {_MOST_SHARDS} names; correct the range, or use a wildcard"
        ) from error
    return names


def _index_of(shards: Sequence[str], suffixes: Sequence[str]) -> Built:
    absolute_shards = [os.path.abspath(shard) for shard in shards]
    root = os.path.commonpath([os.path.dirname(shard) for shard in absolute_shards])
    prefixes = [os.path.relpath(shard, root).replace(os.sep, "/") for shard in absolute_shards]
    return Built(members_of(list(zip(shards, prefixes)), suffixes), shards)
