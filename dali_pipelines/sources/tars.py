"""The source of images in tar files, as WebDataset writes them: KEY.jpg, and optionally KEY.cls with the class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dali_pipelines.sources.class_names import named_classes
from dali_pipelines.sources.index_cache import Built, cached_index
from dali_pipelines.sources.patterns import expanded, prefixes_of
from dali_pipelines.sources.remote import expanded_url
from dali_pipelines.sources.remote_tars import RemoteTarSource, remote_tar_shards
from dali_pipelines.sources.slices import SliceSource
from dali_pipelines.sources.tar_index import images_of
from dali_pipelines.sources.tar_members import members_of
from dali_pipelines.sources.tar_patterns import chosen
from dali_pipelines.storage.options import DEFAULT, Storage
from dali_pipelines.storage.urls import is_url


class TarSource(SliceSource):
    """A source of images in tar files. Their names are SHARD/MEMBER."""

    def place(self, index: int) -> str:
        """Return the path of an image's shard, and the name of its member."""
        return f"{self.file(index)}, member {self.names[index].rpartition('.tar/')[2]}"


def tar_shards(
    pattern: str | Path | Iterable[str | Path], *, storage: Storage = DEFAULT
) -> TarSource | RemoteTarSource:
    """Open the images of tar shards, in the order of the shards.

    Every member with the suffix of an image is an image. Its label is the text of the .cls member with the same name,
    or with the same name up to the first dot. Either all images have a label or none. If the labels are whole numbers,
    and the shards' folder has a file classes.txt, line i of that file is the name of class i, counted from 0. The
    headers are read once, and their index is kept for the next start (see index_cache).

    Args:
        pattern: Path of a shard, or several paths. A path may have wildcards (shards/*.tar) and braces
            (train-{0000..0146}.tar). With ?image=jpg at the end, only members named KEY.jpg are images: 0.jpg, but not
            its mask 0.seg.png. Shards may also be URLs, such as s3://bucket/train-{0000..0146}.tar.
        storage: Where the bytes of remote shards are kept.

    Raises:
        ValueError: If a shard is missing or not a whole tar file, the shards have no images, or only some images have a
            label. Also if classes.txt has no line for a label, or it is not clear which members are the images.
        StorageError: If a remote storage does not answer.

    Examples:
        >>> source = tar_shards("shards/train-{0000..0146}.tar")
        >>> masked = tar_shards("shards/*.tar?image=jpg")
    """
    patterns = [os.fspath(pattern)] if isinstance(pattern, (str, Path)) else [os.fspath(each) for each in pattern]
    shards, suffixes = _shards_of(patterns)
    if is_url(shards[0]):
        return remote_tar_shards(patterns[0], shards, suffixes, storage=storage)
    key = "\n".join(["tar shards", *suffixes, *(os.path.abspath(shard) for shard in shards)])
    found = images_of(patterns[0], cached_index(key, lambda: _index_of(shards, suffixes)), suffixes)
    numbers, classes = named_classes(found.labels, shards)
    return TarSource(
        shards,
        names=found.names,
        labels=numbers,
        classes=classes,
        file_of=found.shard_of,
        offsets=found.offsets,
        sizes=found.sizes,
    )


def _shards_of(patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the shards that patterns name, and the suffixes of ?image=."""
    each_chosen = [chosen(each) for each in patterns]
    if not each_chosen or any(suffixes != each_chosen[0][1] for _, suffixes in each_chosen):
        raise ValueError(
            f"{', '.join(patterns) or 'no pattern'}: is not allowed; give at least one shard, and all shards with the"
            " same ?image=SUFFIX or none"
        )
    if len({is_url(each) for each, _ in each_chosen}) > 1:
        raise ValueError(f"{', '.join(patterns)}: is not allowed; give paths only, or URLs only")
    shards = [
        shard
        for each, _ in each_chosen
        for shard in (expanded_url(each, "shard") if is_url(each) else expanded(each, "shard"))
    ]
    return shards, each_chosen[0][1]


def _index_of(shards: Sequence[str], suffixes: Sequence[str]) -> Built:
    return Built(members_of(list(zip(shards, prefixes_of(shards))), suffixes), shards)
