"""Ranges that one thread fetches: their bytes, their failures, and forked processes."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dali_pipelines.errors import StorageError
from dali_pipelines.storage import read_ahead, transfers, web
from dali_pipelines.storage.options import Storage
from dali_pipelines.storage.read_ahead import ReadAhead, Use
from dali_pipelines.storage.stores import Range
from tests.web import Nginx, nginx

NOTHING = Storage(cache_gib=0)
CONTENT = bytes(range(256)) * 64
_PLACES = """
location /whole/ { alias ROOT/; max_ranges 0; }
location /moved/ { return 302 /a.bin; }
location /busy/ { return 503; }
location /page/ { return 503 "12345"; }
location /other/ { return 200 "12345"; }
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nginx]:
    monkeypatch.setattr(transfers, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(transfers, "GIVE_UP_S", 0.1)
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.bin").write_bytes(CONTENT)
    with nginx(root, tmp_path / "nginx", _PLACES.replace("ROOT", str(root))) as running:
        yield running


def ranges(url: str, count: int) -> list[Range]:
    return [Range(url, "", 100 * number, 70, is_pinned=False) for number in range(count)]


def announced(reader: ReadAhead, wanted: list[Range]) -> None:
    uses = [Use(each, 1000) for each in wanted]
    reader.announce(uses, [], first_use=0, uses=len(uses), own_uses=len(uses))


def test_many_ranges_arrive_without_a_thread_for_each(server: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("a thread was asked for")

    monkeypatch.setattr(read_ahead, "_pool", refuse)
    handles: list[object] = []
    new_handle = web.WebStore._new_handle

    def counted(store: web.WebStore) -> object:
        handles.append(new_handle(store))
        return handles[-1]

    monkeypatch.setattr(web.WebStore, "_new_handle", counted)
    transfers._store.cache_clear()  # the store of another test has its own thread
    threads = set(threading.enumerate())
    reader, wanted = ReadAhead(NOTHING), ranges(f"{server.url}/a.bin", 150)
    announced(reader, wanted)
    wait_until(lambda: not reader._running)
    assert reader._bytes_ahead == 150 * 70
    assert len(handles) <= read_ahead.IN_FLIGHT, "they are used again"
    for each in wanted:
        assert reader.read(each) == CONTENT[each.start : each.start + 70]
    assert reader._bytes_ahead == reader._running == 0
    new = [thread.name for thread in set(threading.enumerate()) - threads]
    assert new == ["dali_pipelines_transfers"]


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_a_cache_keeps_what_was_fetched(server: Nginx, tmp_path: Path) -> None:
    wanted = ranges(f"{server.url}/a.bin", 3)
    for _ in range(2):
        reader = ReadAhead(Storage(str(tmp_path / "cache"), 1.0))
        announced(reader, wanted)
        assert [reader.read(each) for each in wanted] == [CONTENT[each.start : each.start + 70] for each in wanted]
    wait_until(lambda: len(server.requests("a.bin")) >= 3)  # nginx writes its log after the answer
    assert len(server.requests("a.bin")) == 3


@pytest.mark.parametrize("place", ["/a.bin", "/moved/", "/whole/a.bin"])
def test_the_first_try_returns_the_bytes(server: Nginx, place: str) -> None:
    got: queue.Queue[bytes | None] = queue.Queue()
    assert web.WebStore().start(Range(f"{server.url}{place}", "", 0, 50, is_pinned=False), got.put)
    # A server without ranges sends the whole object, so the thread path reads and says it.
    assert got.get(timeout=20) == (None if "whole" in place else CONTENT[:50])


@pytest.mark.parametrize(
    "wanted",
    [
        Range("URL/a.bin", "", len(CONTENT) - 10, 50, is_pinned=False),
        Range("URL/whole/a.bin", "", 10, 50, is_pinned=False),
        Range("URL/a.bin", '"other"', 0, 50),
        Range("URL/missing", "", 0, 50, is_pinned=False),
        Range("URL/busy/a", "", 0, 50, is_pinned=False),
        Range("http://127.0.0.1:1/a", "", 0, 50, is_pinned=False),
        Range("URL/page/", "", 0, 5, is_pinned=False),
        Range("URL/other/", "", 10, 5, is_pinned=False),
        Range("URL/\u00e9", "", 0, 50, is_pinned=False),
    ],
    ids=["short", "whole", "changed", "missing", "busy", "closed", "page", "no range", "not ASCII"],
)
def test_whatever_is_no_range_is_a_failure_and_the_next_transfer_succeeds(server: Nginx, wanted: Range) -> None:
    got: queue.Queue[bytes | None] = queue.Queue()
    store = web.WebStore()
    assert store.start(wanted._replace(url=wanted.url.replace("URL", server.url)), got.put)
    assert got.get(timeout=20) is None
    assert store.start(Range(f"{server.url}/a.bin", "", 3, 4, is_pinned=False), got.put)
    assert got.get(timeout=20) == CONTENT[3:7]


def test_a_failure_is_explained_as_that_of_a_thread(server: Nginx) -> None:
    reader = ReadAhead(NOTHING)
    missing, busy = Range(f"{server.url}/no", "", 0, 5), Range(f"{server.url}/busy/a", "", 0, 5, is_pinned=False)
    good = Range(f"{server.url}/a.bin", "", 0, 5, is_pinned=False)
    announced(reader, [missing, good, busy])
    with pytest.raises(FileNotFoundError, match="/no: does not exist"):
        reader.read(missing)
    assert reader.read(good) == CONTENT[:5]
    with pytest.raises(StorageError, match=r"/busy/a: .*503 .*tried again"):
        reader.read(busy)


def test_a_silent_server_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SILENCE_S", 1)
    got: queue.Queue[bytes | None] = queue.Queue()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert web.WebStore().start(Range(f"http://127.0.0.1:{silent.getsockname()[1]}/a", "", 0, 5), got.put)
        assert got.get(timeout=20) is None


def test_a_forked_process_has_a_thread_of_its_own(server: Nginx) -> None:
    store, wanted = web.WebStore(), Range(f"{server.url}/a.bin", "", 3, 2, is_pinned=False)
    got: queue.Queue[bytes | None] = queue.Queue()
    store.start(wanted, got.put)
    assert got.get(timeout=20) == CONTENT[3:5]
    process = os.fork()
    if not process:
        store.start(wanted, got.put)
        os._exit(0 if got.get(timeout=20) == CONTENT[3:5] else 1)
    assert os.waitpid(process, 0)[1] == 0
    store.start(wanted, got.put)
    assert got.get(timeout=20) == CONTENT[3:5]
