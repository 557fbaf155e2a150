"""The source of images in tar shards behind URLs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources.index_cache import Built, Index, cached_index
from dali_pipelines.sources.labels import numbered
from dali_pipelines.sources.patterns import prefixes_of
from dali_pipelines.sources.remote import RemoteSource, lost, objects_at
from dali_pipelines.sources.shard_indexes import NoIndexError, Packed, members_by_index, packed_files
from dali_pipelines.sources.tar_index import ShardImages, images_of
from dali_pipelines.sources.tar_members import packed
from dali_pipelines.sources.tar_reader import Member, Members, members_in
from dali_pipelines.sources.tar_samples import labelled_images, suffix_of
from dali_pipelines.storage.cache import key_of
from dali_pipelines.storage.object_file import ObjectFile
from dali_pipelines.storage.options import Storage
from dali_pipelines.storage.read_ahead import ReadAhead
from dali_pipelines.storage.stores import Object, Range
from dali_pipelines.storage.transfers import at_once
from dali_pipelines.storage.urls import scrubbed

logger = logging.getLogger(__name__)

# Shards that are read at the same time. Each needs two pieces of an ObjectFile in memory.
_SHARDS_AT_ONCE = 8


class RemoteTarSource(RemoteSource):
    """A source of images in remote tar files. The bytes of each image are fetched alone.

    Args:
        shards: Tar files.
        reader: What fetches ranges ahead of their use.
        images: Names and positions of the images.
        labels: Labels, as in ImageSource.
        classes: Names of the classes, as in ImageSource.
    """

    def __init__(
        self,
        shards: Sequence[Object],
        reader: ReadAhead,
        images: ShardImages,
        *,
        labels: NDArray[np.int64] | None,
        classes: tuple[str, ...],
    ) -> None:
        super().__init__(reader, images.names, labels=labels, classes=classes)
        self._shards = shards
        self._images = images

    def range_of(self, index: int) -> Range:
        shard = self._shards[self._images.shard_of[index]]
        return Range(shard.url, shard.version, int(self._images.offsets[index]), int(self._images.sizes[index]))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of an image, (n,) uint8."""
        try:
            return super().read(index)
        except FileNotFoundError as error:
            raise lost(error) from error

    def place(self, index: int) -> str:
        """Return the URL of an image's shard, and the name of its member."""
        member = self.names[index].rpartition(".tar/")[2]
        return f"{scrubbed(self._shards[self._images.shard_of[index]].url)}, member {member}"

    def _content_sample(self) -> bytes:
        return self._images.sizes.tobytes() + "\n".join(shard.version for shard in self._shards).encode()


def remote_tar_shards(
    pattern: str, urls: Sequence[str], suffixes: Sequence[str], *, storage: Storage
) -> RemoteTarSource:
    """Open the images of remote tar shards (see tar_shards).

    Args:
        pattern: Shards as the user wrote them, for messages.
        urls: URLs of the shards.
        suffixes: Suffixes of images, as in members_of.
        storage: Where fetched bytes are kept.

    Raises:
        ValueError: If a shard is missing, must not be read, or has no images, or if labels are not clear.
        StorageError: If a store does not answer.
    """
    shards = objects_at(urls, in_ranges=True)
    reader = ReadAhead(storage)
    files = packed_files([shard.url for shard in shards])
    key = "\n".join(["remote tar shards", *suffixes, *urls])
    seen = "\n".join([*(f"{shard.version} {shard.size}" for shard in shards), files.version])
    index = cached_index(
        key,
        lambda: Built(_index_of(pattern, shards, urls, suffixes=suffixes, files=files, reader=reader), []),
        version=hashlib.sha256(seen.encode()).hexdigest(),
    )
    images = images_of(pattern, index, suffixes)
    numbers, classes = _classes(images.labels, files, are_names=bool(index["are_names"]))
    return RemoteTarSource(shards, reader, images, labels=numbers, classes=classes)


def _classes(labels: list[str], files: Packed, *, are_names: bool) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Return the numbers of labels, and the classes, in the order of classes.txt if there is one."""
    named = files.classes() if labels else ()
    if not named or not (are_names or all(map(str.isdecimal, set(labels)))):
        return numbered(labels)
    number_of = {name: number for number, name in enumerate(named)}
    if not are_names:
        number_of = {label: int(label) for label in set(labels) if int(label) < len(named)}
    unknown = next((label for label in labels if label not in number_of), None)
    if unknown is not None:
        raise ValueError(
            f"{files.folder}classes.txt: has {len(named)} classes, and none is {unknown!r}, the label of an image;"
            " correct the file, or remove it"
        )
    return np.array([number_of[label] for label in labels], dtype=np.int64), named


def _index_of(
    pattern: str,
    shards: Sequence[Object],
    urls: Sequence[str],
    *,
    suffixes: Sequence[str],
    files: Packed,
    reader: ReadAhead,
) -> Index:
    prefixes = prefixes_of(urls)
    are_names = True
    try:
        found = members_by_index(shards, files)
    except NoIndexError as reason:
        are_names = False
        total = sum(shard.size for shard in shards) / 2**30
        logger.warning(
            "%s: %d shards are read from begin to end once, %.2f GiB, to find their images, because %s."
            " `bt-plugin pack` writes shards with an index.", scrubbed(pattern), len(shards), total, reason,
        )  # fmt: skip
        found = at_once(partial(_read_through, suffixes=suffixes, reader=reader), shards, most=_SHARDS_AT_ONCE)
    images = []
    for shard, prefix, members in zip(shards, prefixes, found):
        try:
            images.append((prefix, labelled_images(members, suffixes)))
        except ValueError as error:
            raise ValueError(f"{scrubbed(shard.url)}: {error}") from error
    left_out = [f"{prefix}/{name}" for prefix, members in zip(prefixes, found) for name in members.left_out]
    return {**packed(images, left_out), "are_names": np.array(are_names)}


def _read_through(shard: Object, *, suffixes: Sequence[str], reader: ReadAhead) -> Members:
    """Return the members of a shard from its headers. Images on the way are kept, as far as there is room."""
    file = ObjectFile(shard)

    def keep(image: Member) -> None:
        if cache is not None and (not suffixes or suffix_of(image.name).lower() in suffixes):
            wanted = Range(shard.url, shard.version, image.offset, image.size)
            cache.put(key_of(wanted), file.at(image.offset, image.size))

    cache = reader.cache
    try:
        return members_in(file, scrubbed(shard.url), size=shard.size, seen=keep)
    except FileNotFoundError as error:
        raise lost(error) from error
