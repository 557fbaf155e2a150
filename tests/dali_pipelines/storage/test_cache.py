"""The cache on the disk: whole files only, its size, and what other ranks do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dali_pipelines.errors import StorageError
from dali_pipelines.storage import cache as cache_module
from dali_pipelines.storage.cache import Cache, cache_of, key_of
from dali_pipelines.storage.options import Storage
from dali_pipelines.storage.stores import Range
from tests.conftest import REPOSITORY

KEYS = [key_of(Range("http://a/b", "1", start, 10)) for start in range(40)]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("??/*") if path.suffix != ".lock"]


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    cache.put(KEYS[0], b"0123456789", 7)
    cache.put(KEYS[1], b"", 7)
    assert cache.get(KEYS[0]) == b"0123456789"
    assert cache.get(KEYS[1]) == b""
    assert cache.get(KEYS[2]) is None
    assert cache.held_bytes == sum(path.stat().st_size for path in files(tmp_path))
    assert (
        len({key_of(Range("u", version, start, size)) for version in "12" for start in (0, 1) for size in (1, None)})
        == 8
    )


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 12), lambda path: path.write_bytes(bytes(18))])
def test_a_file_that_is_not_whole_is_not_used(tmp_path: Path, damage: object) -> None:
    cache = Cache(tmp_path, 1000)
    cache.put(KEYS[0], b"0123456789")
    damage(*files(tmp_path))  # type: ignore[operator]
    assert cache.get(KEYS[0]) is None
    assert files(tmp_path) == []
    assert cache.held_bytes == 0


def test_the_size_is_kept_and_what_is_used_last_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3 * 18)
    for number, use in enumerate((10, 30, 20, 15, 40)):
        cache.put(KEYS[number], b"0123456789", use)
    assert [cache.get(key) is not None for key in KEYS[:5]] == [True, False, True, True, False]
    assert len(files(tmp_path)) == 3


def test_a_later_process_takes_over_what_is_there(tmp_path: Path) -> None:
    first = Cache(tmp_path, 10_000)
    for key in KEYS:
        first.put(key, b"0123456789")
    parts = [Cache(tmp_path, 10_000, part=part, parts=2) for part in range(2)]
    assert sum(part.held_bytes for part in parts) == first.held_bytes
    assert min(part.held_bytes for part in parts) > 0
    smaller = Cache(tmp_path, 5 * 18)
    assert smaller.held_bytes == sum(path.stat().st_size for path in files(tmp_path)) == 5 * 18


def test_leftovers_of_a_process_that_died_are_removed(tmp_path: Path) -> None:
    Cache(tmp_path, 1000)
    old, new = (tmp_path / "00" / f"{name}.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    Cache(tmp_path, 1000)
    assert not old.exists()
    assert new.exists()


def test_a_file_that_another_rank_removed_is_fetched_again(tmp_path: Path) -> None:
    cache, other = Cache(tmp_path, 1000, part=0, parts=2), Cache(tmp_path, 1000, part=1, parts=2)
    cache.put(KEYS[0], b"0123456789")
    assert other.get(KEYS[0]) == b"0123456789"
    files(tmp_path)[0].unlink()
    assert cache.get(KEYS[0]) is None
    assert other.get(KEYS[0]) is None


def test_one_rank_at_a_time_fetches_a_range(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from dali_pipelines.storage.cache import Cache;"
        f"cache = Cache(Path({str(tmp_path)!r}), 1000, part=1, parts=2)\n"
        f"with cache.alone({KEYS[0]!r}): print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY) as other:
        assert other.stdout
        assert other.stdin
        other.stdout.readline()
        cache, entered = Cache(tmp_path, 1000, part=0, parts=2), threading.Event()

        def enter() -> None:
            with cache.alone(KEYS[0]):
                entered.set()

        threading.Thread(target=enter, daemon=True).start()
        assert not entered.wait(0.1)
        other.stdin.close()
        assert entered.wait(10)


def test_a_full_disk_evicts_and_then_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, 1000)
    cache.put(KEYS[0], b"0123456789", 5)
    room = iter([False, True])
    replace = os.replace

    def full(old: str, new: str) -> None:
        if not next(room, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(old, new)

    monkeypatch.setattr(cache_module.os, "replace", full)
    cache.put(KEYS[1], b"9876543210", 4)
    assert [cache.get(key) for key in KEYS[:2]] == [None, b"9876543210"]
    cache.put(KEYS[3], b"9876543210", 9)
    assert cache.get(KEYS[3]) is None, "all others are used sooner"
    with pytest.raises(StorageError, match=r"No space left on device; free space, set another data.cache_dir"):
        cache.put(KEYS[2], b"9876543210", 1)
    assert all(not path.name.endswith(".part") for path in files(tmp_path))
    assert cache.held_bytes == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"the cache .*/file/cache cannot be written .*data.cache_gib=0"):
        Cache(tmp_path / "file" / "cache", 10)
    with pytest.raises(ValueError, match="cache_gib: -1"):
        Storage(cache_gib=-1)
    assert cache_of(Storage(str(tmp_path), 0), 0, 1) is None


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_many_threads_keep_the_size(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * 18)

    def work(seed: int) -> None:
        for number in range(60):
            key = KEYS[(number * seed) % len(KEYS)]
            if cache.get(key) is None:
                cache.put(key, b"0123456789", number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 3, 7, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0)
    assert cache.held_bytes <= 10 * 18
    assert len(files(tmp_path)) * 18 <= 10 * 18 + 4 * 18
