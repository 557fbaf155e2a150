"""Web servers: conditions, logins, redirections, and servers that know no ranges."""

from __future__ import annotations

import base64
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dali_pipelines import open_source
from dali_pipelines.errors import StorageError
from dali_pipelines.storage import transfers, web
from dali_pipelines.storage.stores import Object, Range
from dali_pipelines.storage.transfers import PermanentError, fetch, find, stat
from tests.web import Nginx, nginx

LOGIN = base64.b64encode(b"me:hush").decode()
_PLACES = """
location /whole/ { alias ROOT/; max_ranges 0; }
location /moved/ { return 302 /$arg_to; }
location /away/ { return 302 http://localhost:$server_port/a.bin; }
location /secret/ { alias ROOT/; if ($http_authorization = "") { return 401; } }
location /busy/ { return 503; }
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nginx]:
    monkeypatch.setattr(transfers, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(transfers, "GIVE_UP_S", 0.1)
    monkeypatch.setenv("HOME", str(tmp_path))
    web._login_of.cache_clear()
    web._proxy_of.cache_clear()
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.bin").write_bytes(bytes(range(200)))
    (root / "empty.bin").touch()
    with nginx(root, tmp_path / "nginx", _PLACES.replace("ROOT", str(root))) as running:
        yield running
    web._login_of.cache_clear()
    web._proxy_of.cache_clear()


def test_ranges_and_whole_objects(server: Nginx) -> None:
    found = stat(f"{server.url}/a.bin")
    assert found == Object(found.url, 200, found.version)
    assert found.version.startswith('"')
    assert fetch(Range(found.url, found.version, 10, 5)) == bytes(range(10, 15))
    assert fetch(Range(found.url, found.version, 10, 0)) == b""
    assert fetch(Range(found.url, found.version)) == bytes(range(200))
    empty = stat(f"{server.url}/empty.bin")
    assert (empty.size, empty.has_ranges) == (0, True)


def test_a_range_beyond_the_end_is_no_success(server: Nginx) -> None:
    with pytest.raises(StorageError, match=r"a.bin: .*190|a.bin: OSError: 10 of 50 bytes arrived"):
        fetch(Range(f"{server.url}/a.bin", "", 190, 50, is_pinned=False))


def test_a_server_without_ranges_is_refused(server: Nginx) -> None:
    found = stat(f"{server.url}/whole/a.bin")
    assert (found.size, found.has_ranges) == (200, False)
    with pytest.raises(PermanentError, match="does not answer with byte ranges"):
        fetch(Range(found.url, found.version, 10, 5))
    (server.root / "a.tar").write_bytes(bytes(2048))
    with pytest.raises(ValueError, match=r"a.tar: the server does not answer with byte ranges, so single images"):
        open_source(f"{server.url}/whole/a.tar")


def test_another_version_is_refused_at_once(server: Nginx) -> None:
    for version in ('"other"', "Sun, 06 Nov 1994 08:49:37 GMT"):
        before = len(server.requests())
        with pytest.raises(PermanentError, match="the object has changed since the run began"):
            fetch(Range(f"{server.url}/a.bin", version, 0, 5))
        assert len(server.requests()) == before + 1


def test_the_login_of_netrc_is_sent_and_not_shown(server: Nginx, tmp_path: Path) -> None:
    url = f"{server.url}/secret/a.bin"
    with pytest.raises(PermanentError, match="the server answers 401"):
        stat(url)
    assert find(url) is None
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hush\n")
    (tmp_path / ".netrc").chmod(0o600)
    web._login_of.cache_clear()
    assert stat(url).size == 200
    assert LOGIN in logged(server, LOGIN)


def logged(server: Nginx, part: str) -> str:
    """Return the access log when it has a part. nginx writes it after the answer."""
    for _ in range(100):
        if part in server.log.read_text():
            break
        time.sleep(0.02)
    return server.log.read_text()


def test_redirections_are_followed(server: Nginx) -> None:
    url = f"{server.url}/moved/?to=a.bin"
    assert fetch(Range(url, stat(url).version, 3, 2)) == bytes([3, 4])


def test_a_login_is_not_sent_to_the_host_of_a_redirection(server: Nginx, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hush\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert fetch(Range(f"{server.url}/away/", "", 3, 2, is_pinned=False)) == bytes([3, 4])
    first, second = logged(server, "/a.bin").splitlines()
    assert LOGIN in first
    assert "Basic" not in second


def test_the_proxy_of_the_environment_is_asked(server: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert stat("http://elsewhere.invalid/a.bin").size == 200
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert stat(f"{server.url}/a.bin").size == 200


def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SILENCE_S", 1)
    monkeypatch.setattr(transfers, "GIVE_UP_S", 0.1)
    store = web.WebStore()
    monkeypatch.setattr(transfers, "store_of", lambda url: store)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        with pytest.raises(StorageError, match=r"/a: OSError: Operation too slow"):
            stat(url)


def test_a_forked_process_has_connections_of_its_own(server: Nginx) -> None:
    store = web.WebStore()
    wanted = Range(f"{server.url}/a.bin", "", 3, 2, is_pinned=False)
    store.read(wanted)
    mine = store._handle()
    process = os.fork()
    if not process:
        os._exit(0 if store.read(wanted) == bytes([3, 4]) and store._handle() is not mine else 1)
    assert os.waitpid(process, 0)[1] == 0
    assert store.read(wanted) == bytes([3, 4])
    assert store._handle() is mine


def test_a_busy_server_is_asked_again_and_named(server: Nginx) -> None:
    with pytest.raises(StorageError, match=r"/busy/a: .*answers 503 .*It was tried again for") as raised:
        stat(f"{server.url}/busy/a")
    assert not isinstance(raised.value, PermanentError)
    assert len(server.requests("busy")) > 2
