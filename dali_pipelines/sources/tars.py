"""The source of images in tar files, as WebDataset writes them: KEY.jpg, and optionally KEY.cls with the class."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dali_pipelines.sources.class_names import named_classes
from dali_pipelines.sources.files import ENDINGS, IMAGE_SUFFIXES
from dali_pipelines.sources.index_cache import Built, cached_index
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.paths import absolute
from dali_pipelines.sources.patterns import expanded, prefixes_of
from dali_pipelines.sources.slices import SliceSource
from dali_pipelines.sources.tar_members import members_of

logger = logging.getLogger(__name__)

_CHOICE = re.compile(r"(.*\.tar)\?image=([^/?]+)", re.DOTALL | re.IGNORECASE)


class TarSource(SliceSource):
    """A source of images in tar files. Their names are SHARD/MEMBER."""

    def place(self, index: int) -> str:
        """Return the path of an image's shard, and the name of its member."""
        return f"{self.file(index)}, member {self.names[index].rpartition('.tar/')[2]}"


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
    shards = [shard for each, _ in chosen for shard in expanded(each, "shard")]
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
        file_of=np.repeat(np.arange(len(shards)), index["counts"]),
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


def _index_of(shards: Sequence[str], suffixes: Sequence[str]) -> Built:
    return Built(members_of(list(zip(shards, prefixes_of(shards))), suffixes), shards)
