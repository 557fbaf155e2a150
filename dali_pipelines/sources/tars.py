"""Images in tar files, as WebDataset writes them: KEY.jpg, and KEY.cls with the class where there is one."""

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
from dali_pipelines.sources.files import ENDINGS, IMAGE_SUFFIXES
from dali_pipelines.sources.index_cache import Built, cached_index
from dali_pipelines.sources.labels import numbered
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.paths import absolute, unreadable
from dali_pipelines.sources.tar_members import members_of

logger = logging.getLogger(__name__)

# More names than this are a mistake in the range, and would fill the memory.
_MOST_SHARDS = 1_000_000
_MOST_CHARACTERS = 2**28
_CHOICE = re.compile(r"(.*\.tar)\?image=([^/?]+)", re.DOTALL | re.IGNORECASE)


class TarSource(ImageSource):
    """Images in tar files, each read by its place in its shard: shuffled over all shards like files of a folder.

    Args:
        shards: Paths of the tar files.
        names: Of the images, SHARD/MEMBER.
        labels: As in ImageSource.
        classes: As in ImageSource.
        shard_of: (n,) int64, which shard an image is in.
        offsets: (n,) int64, where its bytes begin there.
        sizes: (n,) int64, how many they are.
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
        """The bytes of the member."""
        size = int(self._sizes[index])
        with open_regular(self._shards[self._shard_of[index]]) as file:
            content = os.pread(file.fileno(), size, int(self._offsets[index]))
        if len(content) < size:
            raise OSError(f"the shard ends after {len(content)} of the image's {size} bytes")
        return np.frombuffer(content, dtype=np.uint8)

    def place(self, index: int) -> str:
        """The path of the shard, and the name of its member."""
        member = self.names[index].rpartition(".tar/")[2]
        return f"{self._shards[self._shard_of[index]]}, member {member}"

    def _content_sample(self) -> bytes:
        return self._sizes.tobytes()


def is_tar_pattern(path: str) -> bool:
    """Whether a path is that of tar shards, as tar_shards takes it."""
    return path.lower().endswith(".tar") or _CHOICE.fullmatch(path) is not None


def tar_shards(pattern: str | Path | Iterable[str | Path]) -> TarSource:
    """The images of tar shards, in the order of the shards.

    An image is a member with the suffix of an image. It has a label if the shard has a .cls member with the same name,
    or with the same name up to the first dot, whose text is the class. Either all images have one or none.
    The headers are read once; their index is kept (see index_cache).

    Args:
        pattern: Path of a shard, with wildcards (shards/*.tar) and braces (train-{0000..0146}.tar), or several of them.
            With ?image=jpg at the end, only members named KEY.jpg are images: 0.jpg, and not its mask 0.seg.png.

    Raises:
        ValueError: If a shard is missing or no whole tar file, there is no image in them, only some have a label, or
            it is open which members are the images.
    """
    patterns = [os.fspath(pattern)] if isinstance(pattern, (str, Path)) else [os.fspath(each) for each in pattern]
    chosen = [_chosen(each) for each in patterns]
    if not chosen or any(suffixes != chosen[0][1] for _, suffixes in chosen):
        raise ValueError(f"{', '.join(patterns) or 'no pattern'}: give shards, all with the same ?image=SUFFIX or none")
    shards = [shard for each, _ in chosen for shard in _expanded(each)]
    suffixes = chosen[0][1]
    key = "\n".join(["tar shards", *suffixes, *(os.path.abspath(shard) for shard in shards)])
    index = cached_index(key, lambda: _index_of(shards, suffixes))
    names, left_out = Names(index["names"], index["ends"]), Names(index["left_out"], index["left_out_ends"])
    if left_out:
        logger.warning(
            "%s: %d members are links and were left out, such as %s; write the shards with --dereference and"
            " --hard-dereference", patterns[0], len(left_out), left_out[0],
        )  # fmt: skip
    if not names:
        rule = (
            f"members named KEY.{' or KEY.'.join(suffixes)} count" if suffixes else ENDINGS.replace("files", "members")
        )
        raise ValueError(f"{patterns[0]}: no images in {len(shards)} shard(s); {rule}")
    labels = list(Names(index["labels"], index["label_ends"]))
    if not all(labels):
        if any(labels):
            raise ValueError(
                f"{names[labels.index('')]} has no .cls member and others have; give all images one, or none"
            )
        labels = []
    numbers, classes = numbered(labels)
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
    """The pattern without ?image=, and the suffixes after that."""
    match = _CHOICE.fullmatch(pattern)
    if match is None or os.path.isfile(absolute(pattern)):
        return pattern, []
    suffixes = [suffix.strip().lower() for suffix in match[2].split(",")]
    for suffix in suffixes:
        if not f".{suffix}".endswith(IMAGE_SUFFIXES):
            raise ValueError(
                f"{pattern}: ?image={suffix} is not allowed; it must be what follows the first dot of an image's name,"
                " such as jpg or seg.png"
            )
    return match[1], suffixes


def _expanded(pattern: str) -> list[str]:
    """The shards that a pattern names, sorted where it has wildcards."""
    literal, rest = _existing_part(absolute(pattern))
    shards = []
    for name in _without_braces(rest, pattern):
        path = os.path.join(literal, name) if name else literal
        if not glob.has_magic(name) or os.path.lexists(path):
            shards.append(path)
            continue
        found = sorted(glob.glob(os.path.join(glob.escape(literal), name), recursive=True))
        if not found:
            raise ValueError(f"{path}: no shard has such a name")
        shards += found
    for shard in shards:
        try:
            os.stat(shard)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ValueError(f"{shard}: there is no such shard; correct the name or the range of {pattern}") from error
        except OSError as error:
            raise unreadable(shard, error) from error
    return shards


def _existing_part(path: Path) -> tuple[str, str]:
    """The part of a path that exists as it is written, whatever characters it has, and the rest."""
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
            f"{pattern[:200]}: braces of more than {_MOST_SHARDS} names; correct the range, or use a wildcard"
        ) from error
    return names


def _index_of(shards: Sequence[str], suffixes: Sequence[str]) -> Built:
    absolute_shards = [os.path.abspath(shard) for shard in shards]
    root = os.path.commonpath([os.path.dirname(shard) for shard in absolute_shards])
    prefixes = [os.path.relpath(shard, root).replace(os.sep, "/") for shard in absolute_shards]
    return Built(members_of(list(zip(shards, prefixes)), suffixes), shards)
