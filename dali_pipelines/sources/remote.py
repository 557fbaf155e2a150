"""What all sources of objects behind URLs have in common."""

from __future__ import annotations

import glob
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.errors import StorageError
from dali_pipelines.sources.base import ImageSource, Upcoming
from dali_pipelines.sources.patterns import without_braces
from dali_pipelines.storage.eviction import UNKNOWN
from dali_pipelines.storage.read_ahead import IMAGES_AHEAD, ReadAhead, Use
from dali_pipelines.storage.stores import Object, Range
from dali_pipelines.storage.transfers import PermanentError, at_once, fixed_url, matches, stat
from dali_pipelines.storage.urls import check_url, protocol_of


class RemoteSource(ImageSource):
    """A source of images behind URLs. The bytes of an image are a range of an object. Subclasses set `range_of`.

    Args:
        reader: What fetches ranges ahead of their use.
        names: Names of the images.
        labels: Labels, as in ImageSource.
        classes: Names of the classes, as in ImageSource.
    """

    kind = "encoded"
    reads_ahead = IMAGES_AHEAD

    def __init__(
        self, reader: ReadAhead, names: Sequence[str], *, labels: NDArray[np.int64] | None, classes: tuple[str, ...]
    ) -> None:
        super().__init__(names, labels, classes)
        self._reader = reader

    @abstractmethod
    def range_of(self, index: int) -> Range:
        """Return where the bytes of an image are.

        Args:
            index: Position of the image, 0 to len(self) - 1.
        """

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of an image, (n,) uint8."""
        return np.frombuffer(self._reader.read(self.range_of(index)), dtype=np.uint8)

    def announce(self, upcoming: Upcoming) -> None:
        mine = upcoming.mine.tolist()
        next_use = dict(zip(upcoming.everyone.tolist(), upcoming.next_use.tolist()))
        uses = len(upcoming.everyone)
        others = [] if uses == len(mine) else set(next_use).difference(mine)
        self._reader.announce(
            [Use(self.range_of(index), next_use.get(index, UNKNOWN)) for index in mine],
            [Use(self.range_of(index), next_use[index]) for index in others],
            first_use=upcoming.first_use,
            uses=uses,
            own_uses=len(mine),
        )


@contextmanager
def at_start() -> Iterator[None]:
    """Turn what a store refuses into a ValueError, because the user named it, and no time was spent yet."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{error}; correct the URL") from None
    except PermanentError as error:
        raise ValueError(str(error)) from None


def objects_at(urls: Sequence[str], *, in_ranges: bool) -> list[Object]:
    """Return the objects behind URLs, at revisions that do not change. Many are asked for at once.

    Args:
        urls: URLs that check_url allows.
        in_ranges: Whether ranges of the objects will be read.

    Raises:
        ValueError: If an object does not exist or must not be read, or its server does not answer with ranges.
        StorageError: If a store does not answer.
    """
    with at_start():
        objects = at_once(stat, fixed(urls))
    whole = next((each for each in objects if not each.has_ranges), None)
    if in_ranges and whole is not None:
        raise ValueError(
            f"{whole.url}: the server does not answer with byte ranges, so single images cannot be read; use another"
            " server, or download the files"
        )
    return objects


def expanded_url(pattern: str, kind: str) -> list[str]:
    """Return the URLs that a pattern names, sorted if it has wildcards.

    Args:
        pattern: URL with braces and wildcards.
        kind: What a file is called in messages, such as "shard".

    Raises:
        ValueError: If the URL is not allowed, nothing matches, or there are too many names.
        StorageError: If the store does not answer.
    """
    check_url(pattern)
    protocol, rest = pattern.split("://", 1)
    urls = []
    for name in without_braces(rest, pattern):
        url = f"{protocol}://{name}"
        if not glob.has_magic(name.partition("/")[2].partition("?")[0]):
            urls.append(url)
            continue
        with at_start():
            found = matches(fixed([url])[0])
        if not found:
            raise ValueError(f"{url}: no {kind} matches; correct the pattern")
        urls += found
    return urls


def fixed(urls: Sequence[str]) -> list[str]:
    """Return the URLs with revisions that do not change. Each revision of a data set of the Hub is asked for once.

    Args:
        urls: URLs that check_url allows.
    """
    known: dict[str, str] = {}
    found = []
    for url in urls:
        parts = url.split("/", 5)
        if protocol_of(url) == "hf" and len(parts) == 6:
            dataset = "/".join(parts[:5])
            if dataset not in known:
                known[dataset] = fixed_url(f"{dataset}/-").removesuffix("-")
            url = known[dataset] + parts[5]
        found.append(url)
    return found


def lost(error: FileNotFoundError) -> StorageError:
    """Return the error of an object that was there when the run began."""
    return StorageError(f"{error}. It was there when the run began")
