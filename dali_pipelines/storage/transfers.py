"""Ask a store again until it answers, and say what went wrong if it does not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from dali_pipelines.errors import StorageError
from dali_pipelines.storage.stores import (
    ChangedError,
    Done,
    MissingError,
    Object,
    Range,
    RefusedError,
    Store,
    missing_library,
)
from dali_pipelines.storage.urls import EXTRAS, protocol_of, scrubbed

S = TypeVar("S")
T = TypeVar("T")

# Long enough for a restart of a server or a change of the network. A longer pause ends the run, which can be resumed.
GIVE_UP_S = 60.0
# The first pause is about that of one slow request. It doubles, up to a tenth of the whole time or more.
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 8.0
# Requests at the same time for many small questions. Stores allow hundreds.
_AT_ONCE = 32


class PermanentError(StorageError):
    """The error of a store that would refuse again, such as one without permission."""


def fetch(wanted: Range) -> bytes:
    """Return the bytes of a range.

    Args:
        wanted: Bytes to fetch.

    Raises:
        FileNotFoundError: If the object does not exist.
        StorageError: If the store refuses, does not answer for GIVE_UP_S seconds, or the object has changed.
    """
    if wanted.size == 0:
        return b""
    store = store_of(wanted.url)

    def once() -> bytes:
        content = store.read(wanted)
        if wanted.size is not None and len(content) != wanted.size:
            raise OSError(f"{len(content)} of {wanted.size} bytes arrived")
        return content

    return patiently(wanted.url, once)


def start(wanted: Range, done: Done) -> bool:
    """Begin to fetch a range without a thread that waits for it, and return whether its store can do that.

    It is one try. After a failure, `fetch` tries again and says what is wrong.

    Args:
        wanted: Bytes to fetch.
        done: Function that gets them, or None after a failure. It must not wait.
    """
    return bool(wanted.size) and store_of(wanted.url).start(wanted, done)


def stat(url: str) -> Object:
    """Return size and version of an object. Raises as fetch does."""
    store = store_of(url)
    return patiently(url, lambda: store.stat(url))


def fixed_url(url: str) -> str:
    """Return a URL whose content does not change with time, where the store has such URLs. Raises as fetch does."""
    store = store_of(url)
    return patiently(url, lambda: store.fixed(url))


def matches(pattern: str) -> list[str]:
    """Return the URLs that match a pattern with wildcards, sorted. Raises as fetch does."""
    store = store_of(pattern)
    return patiently(pattern, lambda: store.matches(pattern))


def find(url: str) -> Object | None:
    """Return size and version of an object that may be there or not.

    A bucket whose objects may not be listed refuses what it does not have, so None is also the answer to a refusal.

    Args:
        url: URL of the object.

    Raises:
        StorageError: If the store does not answer.
    """
    try:
        return stat(url)
    except (FileNotFoundError, PermanentError):
        return None


def at_once(function: Callable[[S], T], given: Sequence[S], *, most: int = _AT_ONCE) -> list[T]:
    """Return what a function returns for each of many arguments, in their order, with many calls at a time.

    Args:
        function: Function that waits for a store.
        given: Its arguments.
        most: Largest number of calls at a time, 1 or more.
    """
    if len(given) < 2:
        return [function(each) for each in given]
    with ThreadPoolExecutor(min(most, len(given)), "dali_pipelines_ask") as threads:
        tasks = [threads.submit(function, each) for each in given]
        try:
            return [task.result() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()


def patiently(url: str, once: Callable[[], T]) -> T:
    """Return the result of a function that is tried again after errors that may pass.

    Args:
        url: URL that the function asks for.
        once: Function that tries once. It raises a RefusedError if another try would fail too.

    Raises:
        FileNotFoundError: If the object does not exist.
        StorageError: If the store refuses, or if all tries fail.
    """
    begun_s = time.monotonic()
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return once()
        except MissingError as error:
            raise FileNotFoundError(f"{scrubbed(url)}: does not exist ({scrubbed(str(error))})") from None
        except ChangedError as error:
            raise PermanentError(
                f"{_failure(url, error)} since the run began. Restore it, or start a new run with the changed data"
            ) from None
        except RefusedError as error:
            raise PermanentError(_failure(url, error)) from None
        except Exception as error:  # a library of a protocol has errors of its own
            # Python refuses new work when the program ends. What threads still ask for is not needed any more.
            if isinstance(error, RuntimeError) and "shutdown" in str(error):
                raise PermanentError(_failure(url, error)) from None
            # Half of the pause is random, so that the ranks do not ask again all at once.
            wait_s = pause_s * random.uniform(0.5, 1.0)
            if time.monotonic() + wait_s - begun_s > GIVE_UP_S:
                reason = _failure(url, error)
                raise StorageError(f"{reason}. It was tried again for {time.monotonic() - begun_s:.0f} s") from None
        time.sleep(wait_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def store_of(url: str) -> Store:
    """Return the store of a URL.

    Args:
        url: URL that check_url allows.

    Raises:
        ValueError: If the protocol's library is not installed; the message names the extra.
    """
    try:
        return _store("http" if protocol_of(url) == "https" else protocol_of(url))
    except ImportError as error:
        raise missing_library(url, error) from error


@lru_cache(maxsize=len(EXTRAS))
def _store(protocol: str) -> Store:
    if protocol == "http":
        from dali_pipelines.storage.web import WebStore

        return WebStore()
    if protocol == "hf":
        from dali_pipelines.storage.hub import HubStore

        return HubStore()
    from dali_pipelines.storage.buckets import GoogleStore, S3Store

    return S3Store() if protocol == "s3" else GoogleStore()


def _failure(url: str, error: Exception) -> str:
    """Return a message that names a URL and the cause, without a secret."""
    is_named = isinstance(error, RefusedError) or not str(error)
    text = str(error) or type(error).__name__ if is_named else f"{type(error).__name__}: {error}"
    return scrubbed(f"{url}: {text}")
