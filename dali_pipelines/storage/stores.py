"""The interface of a store, and its permanent errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from dali_pipelines.storage.urls import EXTRAS, protocol_of, scrubbed

Done: TypeAlias = Callable[["bytes | None"], None]


class RefusedError(Exception):
    """The error of a request that would fail again: permission denied, or a server without byte ranges."""


class MissingError(RefusedError):
    """The error of an object that does not exist."""


class ChangedError(RefusedError):
    """The error of an object that is another one now."""


class Object(NamedTuple):
    """An object of a store.

    Args:
        url: URL of the object, without a secret.
        size: Number of its bytes.
        version: What changes with its content: its ETag, generation or hash, else its size and date.
        has_ranges: Whether the store answers with a range of its bytes.
    """

    url: str
    size: int
    version: str
    has_ranges: bool = True


class Range(NamedTuple):
    """Bytes of an object.

    Args:
        url: URL of the object.
        version: Version of the object, or of the list that names it. Ranges of other versions are other bytes.
        start: Position of the first byte.
        size: Number of bytes, or None for the whole object.
        is_pinned: Whether the version is that of the object, and the store must not answer with another one.
    """

    url: str
    version: str
    start: int = 0
    size: int | None = None
    is_pinned: bool = True


class Store(ABC):
    """What the objects of one protocol are read with. All functions wait for the answer of one try.

    They raise a RefusedError if another try would fail too, and any other Exception if it might succeed.
    """

    @abstractmethod
    def stat(self, url: str) -> Object:
        """Return size and version of an object."""

    @abstractmethod
    def read(self, wanted: Range) -> bytes:
        """Return the bytes of a range. They may be fewer than wanted; the caller checks that."""

    def start(self, wanted: Range, done: Done) -> bool:
        """Begin to read a range without a thread that waits for it, and return whether the store can do that.

        Args:
            wanted: Range of a known size.
            done: Function that gets the bytes, all that are wanted, or None if this one try failed.
        """
        return False

    @abstractmethod
    def matches(self, pattern: str) -> list[str]:
        """Return the URLs that match a pattern with wildcards, sorted."""

    def fixed(self, url: str) -> str:
        """Return a URL whose content does not change with time, where a store has such URLs."""
        return url


def missing_library(url: str, error: ImportError) -> ValueError:
    """Return the error of a URL whose protocol needs a library that is not installed.

    Args:
        url: URL as the user wrote it.
        error: Error of the import.
    """
    protocol = protocol_of(url)
    return ValueError(
        f"{scrubbed(url)}: reading {protocol}:// needs a library that is not installed ({error}); install it with"
        f" pip install 'bt-plugin[{EXTRAS[protocol]}]'"
    )
