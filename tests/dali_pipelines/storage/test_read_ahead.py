"""Ranges that are announced are fetched ahead, many at once, and never without limit."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from dali_pipelines.errors import StorageError
from dali_pipelines.storage import read_ahead
from dali_pipelines.storage.options import Storage
from dali_pipelines.storage.read_ahead import ReadAhead, Use
from dali_pipelines.storage.stores import Range

NOTHING = Storage(cache_gib=0)


@pytest.fixture(autouse=True)
def _own_threads() -> None:
    """Threads of other tests may still try again to reach servers that are gone."""
    read_ahead._pool.cache_clear()


RANGES = [Range("http://a/b", "1", start, 10) for start in range(200)]


class Server:
    """A store that counts what is fetched, and waits until it may answer."""

    def __init__(self) -> None:
        self.fetched: list[Range] = []
        self.open = threading.Event()
        self.open.set()
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.error: Exception | None = None

    def fetch(self, wanted: Range) -> bytes:
        with self.lock:
            self.fetched.append(wanted)
            self.now += 1
            self.most = max(self.most, self.now)
        assert self.open.wait(10)
        with self.lock:
            self.now -= 1
        if self.error:
            raise self.error
        return b"%010d" % wanted.start


def announce(reader: ReadAhead, numbers: range, first_use: int | None = None) -> None:
    uses = [Use(RANGES[number], 1000 + number) for number in numbers]
    reader.announce(
        uses, [], first_use=numbers.start if first_use is None else first_use, uses=len(uses), own_uses=len(uses)
    )


def until(condition: object) -> None:
    end = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


def test_announced_ranges_are_fetched_once_and_many_at_a_time() -> None:
    server = Server()
    reader = ReadAhead(NOTHING, server.fetch)
    server.open.clear()
    announce(reader, range(100))
    until(lambda: server.now == read_ahead.IN_FLIGHT)
    server.open.set()
    assert [reader.read(each) for each in RANGES[:100]] == [b"%010d" % number for number in range(100)]
    assert sorted(server.fetched) == RANGES[:100]
    assert server.most <= read_ahead.IN_FLIGHT + 1, "a reader may fetch too"
    assert reader._bytes_ahead == 0


def test_a_read_that_was_not_announced_is_fetched_now() -> None:
    server = Server()
    assert ReadAhead(NOTHING, server.fetch).read(RANGES[5]) == b"0000000005"


def test_bytes_ahead_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "MOST_BYTES_AHEAD", 35)
    server = Server()
    reader = ReadAhead(NOTHING, server.fetch)
    announce(reader, range(20))
    until(lambda: len(server.fetched) == 3 and server.now == 0)
    time.sleep(0.02)
    assert len(server.fetched) == 3
    # A range that has not begun is fetched by its reader, also out of order.
    assert reader.read(RANGES[15]) == b"0000000015"
    assert [reader.read(RANGES[number]) for number in range(15)] == [b"%010d" % number for number in range(15)]
    assert [reader.read(RANGES[number]) for number in range(16, 20)] == [b"%010d" % number for number in range(16, 20)]
    assert sorted(server.fetched) == RANGES[:20]
    until(lambda: reader._bytes_ahead == 0 and not reader._waiting)


def test_a_restart_forgets_what_was_announced() -> None:
    server = Server()
    reader = ReadAhead(NOTHING, server.fetch)
    server.open.clear()
    announce(reader, range(50))
    announce(reader, range(50, 100))
    until(lambda: server.now == read_ahead.IN_FLIGHT)
    announce(reader, range(100, 110), first_use=20)
    server.open.set()
    assert [reader.read(each) for each in RANGES[100:110]] == [b"%010d" % number for number in range(100, 110)]
    until(lambda: server.now == 0)
    assert len(server.fetched) == read_ahead.IN_FLIGHT + 10
    assert reader._bytes_ahead == 0
    assert not reader._tasks


def test_what_is_not_read_is_forgotten_after_a_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_MOST_OUT_OF_ORDER", 20)
    server = Server()
    reader = ReadAhead(NOTHING, server.fetch)
    announce(reader, range(10))
    announce(reader, range(100, 118), first_use=5000)
    until(lambda: server.now == 0 and reader._running == 0)
    assert [reader.read(each) for each in RANGES[100:118]] == [b"%010d" % number for number in range(100, 118)]
    assert reader._bytes_ahead == 30, "of the last three"
    assert list(reader._tasks) == RANGES[7:10]


def test_ranges_of_many_images_are_given_up_after_as_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_MOST_OUT_OF_ORDER", 20)
    reader = ReadAhead(NOTHING, Server().fetch)
    for number in range(4):
        reader.announce([Use(RANGES[number], 1000)], [], first_use=10 * number, uses=10, own_uses=10)
    reader.read(RANGES[3])
    assert list(reader._tasks) == RANGES[1:3], "the first was announced 30 images before"


def test_an_error_comes_to_the_reader_and_later_reads_try_again() -> None:
    server = Server()
    server.error = StorageError("away")
    reader = ReadAhead(NOTHING, server.fetch)
    announce(reader, range(4))
    with pytest.raises(StorageError, match="away"):
        reader.read(RANGES[0])
    until(lambda: server.now == 0 and len(server.fetched) >= 4)
    server.error = None
    with pytest.raises(StorageError, match="away"):
        reader.read(RANGES[150])
    assert RANGES[150] not in server.fetched, "a stream that was dropped does not wait for each of its images"
    announce(reader, range(4))
    assert [reader.read(each) for each in RANGES[:4]] == [b"%010d" % number for number in range(4)]
    assert reader._bytes_ahead == 0


def test_what_cannot_be_kept_stops_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    reader = ReadAhead(Storage(str(tmp_path)), server.fetch)
    assert reader.cache

    def full(*_: object) -> None:
        raise StorageError("full")

    monkeypatch.setattr(reader.cache, "put", full)
    announce(reader, range(2))
    with pytest.raises(StorageError, match="full"):
        reader.read(RANGES[0])


def test_the_cache_answers_the_second_time(tmp_path: Path) -> None:
    server = Server()
    reader = ReadAhead(Storage(str(tmp_path)), server.fetch)
    for first_use in (0, 10, 20):
        announce(reader, range(10), first_use)
        assert [reader.read(each) for each in RANGES[:10]] == [b"%010d" % number for number in range(10)]
        until(lambda: reader._running == 0)
    assert sorted(server.fetched) == RANGES[:10]
