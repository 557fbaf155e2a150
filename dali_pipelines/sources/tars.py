"""Images in tar files, as WebDataset writes them: KEY.jpg, and KEY.cls with the class where there is one."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import bracex
import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources.base import ImageSource
from dali_pipelines.sources.files import IMAGE_SUFFIXES
from dali_pipelines.sources.index_cache import Built, cached_index
from dali_pipelines.sources.labels import numbered
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.tar_members import members_of


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
        descriptor = os.open(self._shards[self._shard_of[index]], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            content = os.pread(descriptor, size, int(self._offsets[index]))
        finally:
            os.close(descriptor)
        if len(content) < size:
            raise OSError(f"the shard ends after {len(content)} of the image's {size} bytes")
        return np.frombuffer(content, dtype=np.uint8)

    def place(self, index: int) -> str:
        """The path of the shard, and the name of its member."""
        member = self.names[index].rpartition(".tar/")[2]
        return f"{self._shards[self._shard_of[index]]}, member {member}"

    def _content_sample(self) -> bytes:
        return self._sizes.tobytes()


def tar_shards(pattern: str | Path | Iterable[str | Path]) -> TarSource:
    """The images of tar shards, in the order of the shards.

    An image is a member with the suffix of an image. It has a label if the shard has a member of the same name
    up to its first dot, with the suffix .cls, whose text is the class. Either all images have one or none.
    The headers are read once; their index is kept (see index_cache).

    Args:
        pattern: Path of a shard, with wildcards (shards/*.tar) and braces (train-{0000..0146}.tar), or several of them.

    Raises:
        ValueError: If a shard is missing or no plain tar file, there is no image in them, or only some have a label.
    """
    patterns = [pattern] if isinstance(pattern, (str, Path)) else list(pattern)
    shards = [shard for each in patterns for shard in _expanded(str(each))]
    key = "tar shards " + "\n".join(os.path.abspath(shard) for shard in shards)
    index = cached_index(key, lambda: _index_of(shards))
    names = Names(index["names"], index["ends"])
    if not names:
        raise ValueError(
            f"{patterns[0]}: no images in {len(shards)} shard(s); members that end in {', '.join(IMAGE_SUFFIXES)} count"
        )
    labels = list(Names(index["labels"], index["label_ends"]))
    if not all(labels):
        if any(labels):
            raise ValueError(
                f"{names[labels.index('')]} has no .cls member and others have; give all images one, or none"
            )
        labels = []
    return TarSource(
        shards,
        names,
        *numbered(labels),
        np.repeat(np.arange(len(shards)), index["counts"]),
        index["offsets"],
        index["sizes"],
    )


def _expanded(pattern: str) -> list[str]:
    """The shards that a pattern names, sorted where it has wildcards."""
    shards = []
    for name in bracex.expand(os.path.expanduser(pattern), limit=0):
        found = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
        if not found:
            raise ValueError(f"{name}: no shard has such a name")
        shards += found
    for shard in shards:
        if not os.path.isfile(shard):
            raise ValueError(f"{shard}: there is no such shard; correct the name or the range of {pattern}")
    return shards


def _index_of(shards: Sequence[str]) -> Built:
    absolute = [os.path.abspath(shard) for shard in shards]
    root = os.path.commonpath([os.path.dirname(shard) for shard in absolute])
    prefixes = [os.path.relpath(shard, root).replace(os.sep, "/") for shard in absolute]
    return Built(members_of(list(zip(shards, prefixes))), shards)
