"""Keep the index of a source for the next start, if it took long to build."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.regular_files import open_regular
from dali_pipelines.sources.names import Names

logger = logging.getLogger(__name__)

Index = dict[str, NDArray[Any]]

# Part of the key. Increase it when the form of an index changes.
_FORMAT = 3
# An index that is built faster is not kept. There is nothing to gain, and nothing that could be out of date.
WORTH_KEEPING_S = 2.0

_MODIFIED_NS = 1  # column of the stamps
# File systems store times in coarse steps, and storage servers have their own clocks.
_CLOCK_SLACK_NS = 1_000_000_000


class Built(NamedTuple):
    """A new index.

    Args:
        arrays: Arrays of the index, by name.
        depends_on: Paths of the files and folders whose change makes the index invalid.
    """

    arrays: Index
    depends_on: Iterable[str]


def cached_index(key: str, build: Callable[[], Built], *, version: str = "") -> Index:
    """Return the index that was kept under a key, or build a new one if a file, a folder or the version has changed.

    A file or folder has changed if its size, its time of modification or its identity (inode) differs. The indexes are
    stored in $XDG_CACHE_HOME/dali_pipelines, by default ~/.cache/dali_pipelines. If that folder cannot be written, no
    index is kept.

    Args:
        key: Key that identifies the source.
        build: Function that builds the index.
        version: Version of remote data. With one, the index is always kept, and one process of a host builds it while
            the others wait, because all the data may have to be read.
    """
    digest = hashlib.sha256(f"{_FORMAT} {key}".encode("utf-8", "surrogateescape")).hexdigest()
    folder = cache_folder()
    if folder is None:
        return build().arrays
    path = folder / f"{digest[:32]}.npz"
    kept = _load(path, version)
    if kept is not None:
        return kept
    with _alone(path.with_suffix(".lock")) if version else nullcontext():
        kept = _load(path, version) if version else None
        if kept is not None:
            return kept
        begun_ns = time.time_ns()
        index, depends_on = build()
        if version or time.time_ns() - begun_ns >= 1e9 * WORTH_KEEPING_S:
            _keep(path, index, list(depends_on), begun_ns=begun_ns, version=version)
    return index


def cache_folder() -> Path | None:
    """Return the folder of the indexes, or None if its path is relative, as without a home directory.

    A relative path would be a different folder after a change of the working directory.
    """
    folder = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(folder) / "dali_pipelines" if os.path.isabs(folder) else None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process of the host at a time build an index. The lock ends with its process."""
    with ExitStack() as opened:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(opened.enter_context(open(path, "w")), fcntl.LOCK_EX)
        except OSError as error:
            logger.debug("each rank builds the index, because there is no lock %s: %s", path, error)
        yield


def _load(path: Path, version: str) -> Index | None:
    try:
        with open_regular(path) as opened, np.load(opened, allow_pickle=False) as file:
            index = dict(file)
        depends_on = Names(index.pop("_depends_on"), index.pop("_depends_on_ends"))
        is_current = np.array_equal(_stamps(depends_on), index.pop("_stamps"))
        is_current &= index.pop("_version").tobytes().decode() == version
    except Exception:  # whatever is wrong with the index, it can be built again
        return None
    return index if is_current else None


def _keep(path: Path, index: Index, depends_on: list[str], *, begun_ns: int, version: str) -> None:
    packed = Names.of(depends_on)
    kept: dict[str, Any] = {**index, "_depends_on": packed.block, "_depends_on_ends": packed.ends}
    kept["_version"] = np.frombuffer(version.encode(), dtype=np.uint8)
    try:
        kept["_stamps"] = stamps = _stamps(depends_on)
        if stamps[:, _MODIFIED_NS].max(initial=0) >= begun_ns - _CLOCK_SLACK_NS:
            return  # a file may have changed after it was read
        path.parent.mkdir(parents=True, exist_ok=True)
        # Ranks that start at the same time each write a whole index.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            np.savez(Path(folder) / path.name, **kept)
            os.replace(Path(folder) / path.name, path)
    except OSError as error:
        logger.warning("the index is not kept, and will be built again at the next start: %s", error)
    else:
        logger.info("index kept in %s", path)


def _stamps(paths: Iterable[str]) -> NDArray[np.int64]:
    """Return size, time of modification and inode of each file or folder, (n, 3) int64."""
    stats = map(os.stat, paths)
    return np.array([(stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats], dtype=np.int64).reshape(-1, 3)
