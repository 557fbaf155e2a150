"""The source of images that are objects of their own, each behind a URL of a list."""

from __future__ import annotations

import io
import posixpath
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources.list_reader import LIST_DELIMITERS, ListReader, checked_classes
from dali_pipelines.sources.names import Names
from dali_pipelines.sources.remote import RemoteSource, fixed, objects_at
from dali_pipelines.storage.options import Storage
from dali_pipelines.storage.read_ahead import ReadAhead
from dali_pipelines.storage.stores import Range
from dali_pipelines.storage.transfers import fetch
from dali_pipelines.storage.urls import check_url, joined, scrubbed, suffix_of

# Revisions of the Hub that are kept. A list has images of few data sets.
_MOST_REVISIONS = 1024


class RemoteListSource(RemoteSource):
    """A source of images behind URLs. Each is fetched whole.

    The version of the list stands for the content of its images: asking for each would take longer than the first
    epoch.

    Args:
        names: Paths or URLs of the images, as the list has them.
        folder: URL that relative paths begin at, with a slash at the end; empty if there are none.
        version: Version of the list.
        storage: Where fetched bytes are kept.
        labels: Labels, as in ImageSource.
        classes: Names of the classes, as in ImageSource.
    """

    def __init__(
        self,
        names: Names,
        *,
        folder: str,
        version: str,
        storage: Storage,
        labels: NDArray[np.int64] | None,
        classes: tuple[str, ...],
    ) -> None:
        super().__init__(ReadAhead(storage), names, labels=labels, classes=classes)
        self._folder = folder
        self._version = version
        self._fixed_of = lru_cache(maxsize=_MOST_REVISIONS)(
            lambda dataset: fixed([f"{dataset}/-"])[0].removesuffix("-")
        )

    def range_of(self, index: int) -> Range:
        url = joined(self._folder, self.names[index])
        if url.startswith("hf://"):
            *dataset, file = url.split("/", 5)
            url = self._fixed_of("/".join(dataset)) + file
        return Range(url, self._version, is_pinned=False)

    def place(self, index: int) -> str:
        """Return the URL of an image."""
        return scrubbed(joined(self._folder, self.names[index]))

    def _content_sample(self) -> bytes:
        return self._version.encode()


def listed_at(url: str, *, storage: Storage) -> RemoteListSource:
    """Open a list of images behind a URL (see file_list).

    Args:
        url: URL of the list.
        storage: Where fetched bytes are kept.

    Raises:
        ValueError: If the list does not exist, must not be read or is empty, or a line has an error.
        StorageError: If the store does not answer.
    """
    check_url(url)
    suffix = suffix_of(url)
    if suffix not in LIST_DELIMITERS:
        raise ValueError(f"{scrubbed(url)}: is not a list of files; use a {', '.join(LIST_DELIMITERS)} file")
    (found,) = objects_at([url], in_ranges=False)
    labels: list[str] = []
    content = io.BytesIO(fetch(Range(found.url, found.version)))
    reader = ListReader(scrubbed(url), suffix=suffix, file=content)
    names = Names.of(reader.paths(labels))
    numbers, classes = checked_classes(scrubbed(url), names, labels)
    folder = f"{posixpath.dirname(found.url)}/"
    return RemoteListSource(
        names, folder=folder, version=found.version, storage=storage, labels=numbers, classes=classes
    )
