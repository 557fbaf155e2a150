"""Read what `bt-plugin pack` and DALI's wds2idx write next to tar shards, so that no header has to be read.

Source of the format of an index: DALI, tools/wds2idx.py.
"""

from __future__ import annotations

import csv
import io
import posixpath
import tarfile
from collections.abc import Sequence
from functools import cached_property

from dali_pipelines.sources.class_names import CLASS_NAMES, lines_of
from dali_pipelines.sources.files import IMAGE_SUFFIXES
from dali_pipelines.sources.tar_reader import Member, Members
from dali_pipelines.storage.stores import Object, Range
from dali_pipelines.storage.transfers import at_once, fetch, find

_LABELS = "labels.csv"


class NoIndexError(Exception):
    """The error of shards that have no index that can be used. The message says why, as the end of a sentence."""


class Packed:
    """The files next to shards: labels.csv and classes.txt in their folder.

    Args:
        folders: URL of each folder that has shards, with a slash at the end.
        labels: labels.csv of each folder, or None.
        classes: classes.txt of each folder, or None.
    """

    def __init__(self, folders: list[str], labels: list[Object | None], classes: list[Object | None]) -> None:
        self._folders = folders
        self._labels = labels
        self._classes = classes

    @property
    def version(self) -> str:
        """What changes with one of the files."""
        return " ".join(each.version if each else "-" for each in (*self._labels, *self._classes))

    @property
    def folder(self) -> str:
        """URL of the first folder."""
        return self._folders[0]

    @property
    def has_labels(self) -> bool:
        """Whether every folder has its labels.csv."""
        return all(self._labels)

    def classes(self) -> tuple[str, ...]:
        """Return the lines of classes.txt, if all folders have the same."""
        return self._lines

    @cached_property
    def _lines(self) -> tuple[str, ...]:
        if not all(self._classes):
            return ()
        found = {lines_of(_whole(each)) for each in self._classes if each}
        return found.pop() if len(found) == 1 else ()

    def labels(self) -> dict[str, str]:
        """Return the label of each image by the URL of its shard and the name of its member."""
        labels: dict[str, str] = {}
        for folder, item in zip(self._folders, self._labels):
            if item is None:
                continue
            text = io.StringIO(_whole(item).decode("utf-8-sig", "surrogateescape"), newline="")
            rows = csv.DictReader(text)
            if "name" not in (rows.fieldnames or ()):
                raise NoIndexError(f"{item.url} has no column 'name'")
            if "label" in (rows.fieldnames or ()):
                labels.update((folder + row["name"], row["label"]) for row in rows)
        return labels


def packed_files(urls: Sequence[str]) -> Packed:
    """Find the files next to shards.

    Args:
        urls: URLs of the shards.
    """
    folders = sorted({f"{posixpath.dirname(url)}/" for url in urls})
    found = at_once(find, [folder + name for name in (_LABELS, CLASS_NAMES) for folder in folders])
    return Packed(folders, found[: len(folders)], found[len(folders) :])


def members_by_index(shards: Sequence[Object], files: Packed) -> list[Members]:
    """Return the members of shards from the indexes next to them, with the labels of labels.csv.

    Args:
        shards: Tar files.
        files: Files next to them.

    Raises:
        NoIndexError: If a shard has no index, or one that is not its own.
    """
    if find(_index_url(shards[0].url)) is None:
        raise NoIndexError(f"there is no {posixpath.basename(_index_url(shards[0].url))} next to the first shard")
    components = at_once(_components, shards)
    if any(name.endswith(".cls") for of_shard in components for name, _, _ in of_shard) and not files.has_labels:
        raise NoIndexError(f"an index has no classes, and there is no {_LABELS} next to the shards")
    labels = files.labels()
    return [_members(shard, of_shard, labels) for shard, of_shard in zip(shards, components)]


def _members(shard: Object, components: list[Member], labels: dict[str, str]) -> Members:
    found = Members([], {}, [])
    for each in components:
        name = each.name.removeprefix("./")
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.rpartition("/")[2].startswith("._"):
            found.images.append(Member(name, each.offset, each.size))
            if label := labels.get(f"{shard.url}/{name}"):
                found.labels[f"{name.rpartition('.')[0]}.cls"] = label
    return found


def _components(shard: Object) -> list[Member]:
    """Return all members in the index of a shard, and check that the index is that of this shard."""
    url = _index_url(shard.url)
    try:
        lines = fetch(Range(url, "", is_pinned=False)).decode("utf-8", "surrogateescape").splitlines()
    except FileNotFoundError:
        raise NoIndexError(f"there is no {posixpath.basename(url)}") from None
    head = lines[0].split() if lines else []
    if len(head) != 2 or head[0] != "v1.2" or head[1] != str(len(lines) - 1):
        raise NoIndexError(f"{posixpath.basename(url)} is not an index of version v1.2, as DALI's wds2idx writes it")
    found: list[Member] = []
    for line in lines[1:]:
        words = line.split(" ")
        groups = [words[first : first + 4] for first in range(0, len(words), 4)]
        if any(len(each) != 4 or not (each[1] + each[2]).isdecimal() for each in groups):
            raise NoIndexError(f"{posixpath.basename(url)} has a name with a space, or is damaged")
        found += (Member(name, int(offset), int(size)) for _, offset, size, name in groups)
    _check_last(shard, found, url)
    return found


def _check_last(shard: Object, members: list[Member], url: str) -> None:
    """Raise if the last member of an index is not where the index says. One header is read for it."""
    if not members:
        return
    last = max(members, key=lambda each: each.offset)
    stale = NoIndexError(f"{posixpath.basename(url)} is not the index of its shard; write it again")
    if last.offset < tarfile.BLOCKSIZE or last.offset + last.size > shard.size:
        raise stale
    block = fetch(Range(shard.url, shard.version, last.offset - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE))
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        raise stale from None
    # A long name stands in a header of its own.
    if header.size != last.size or not last.name.startswith(header.name[:90]):
        raise stale


def _index_url(shard: str) -> str:
    """Return the URL of a shard's index. Its name is that of the shard up to the first dot."""
    folder, name = posixpath.split(shard)
    return f"{folder}/{name.partition('.')[0]}.idx"


def _whole(item: Object) -> bytes:
    return fetch(Range(item.url, item.version))
