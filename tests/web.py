"""Servers of tests on this machine: nginx, and a proxy before it that delays, cuts, refuses and stays away."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    log_format bytes '$request_method $request_uri $status $body_bytes_sent $http_range $http_authorization';
    access_log {folder}/access.log bytes;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    keepalive_requests 1000000;
    server {{ listen 127.0.0.1:{port}; root {root}; {more} }}
}}
"""


@dataclass
class Nginx:
    """A running nginx.

    Args:
        url: Address, without a slash at the end.
        root: Folder that is served.
        log: Access log: method, path, status, bytes of the body, range.
    """

    url: str
    root: Path
    log: Path

    def requests(self, part: str = "") -> list[tuple[str, str, int, int]]:
        """Return method, path, status and bytes of each answer so far whose path has a part."""
        lines = (line.split(" ", 4) for line in self.log.read_text().splitlines())
        return [(method, path, int(status), int(sent)) for method, path, status, sent, _ in lines if part in path]

    def sent_bytes(self, part: str = "") -> int:
        """Return the number of bytes that were sent of the paths that have a part."""
        return sum(sent for _, _, status, sent in self.requests(part) if status < 300)


@contextmanager
def nginx(root: Path, folder: Path, more: str = "") -> Iterator[Nginx]:
    """Serve a folder by nginx, or skip the test if there is none.

    Args:
        root: Folder that is served.
        folder: Folder for the server's own files.
        more: More lines of the server's configuration.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed; apt-get install nginx-light")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "conf").write_text(_CONFIGURATION.format(folder=folder, port=port, root=root, more=more))
    with subprocess.Popen([program, "-c", folder / "conf", "-p", folder, "-e", folder / "error.log"]) as process:
        try:
            _wait_for(port, process)
            yield Nginx(f"http://127.0.0.1:{port}", root, folder / "access.log")
        finally:
            process.terminate()


@dataclass
class Proxy:
    """A proxy before a server. Its faults may be changed at any time.

    Args:
        url: Address, without a slash at the end.
        delay_s: Time that each answer waits.
        cut: Numbers of the answers, from 0, that end in the middle of their body.
        busy: Numbers of the answers that are 503.
        is_away: Whether connections are closed at once.
        answers: Number of answers so far.
    """

    url: str = ""
    delay_s: float = 0.0
    cut: range | set[int] = field(default_factory=set)
    busy: range | set[int] = field(default_factory=set)
    is_away: bool = False
    answers: int = 0


@contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    """Run a proxy before a server at a URL, in threads."""
    host, port = url.removeprefix("http://").split(":")
    found = Proxy()
    lock = threading.Lock()
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        found.url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=serve, args=(client,), daemon=True).start()

        def serve(client: socket.socket) -> None:
            with suppress(OSError, ValueError), client, socket.create_connection((host, int(port))) as server:
                asked, answered = client.makefile("rb"), server.makefile("rb")
                while request := _head(asked):
                    if found.is_away:
                        return
                    with lock:
                        number, found.answers = found.answers, found.answers + 1
                    time.sleep(found.delay_s)
                    if number in found.busy:
                        client.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
                        continue
                    server.sendall(request)
                    head = _head(answered)
                    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                    body = answered.read(int(length[1]) if length and not request.startswith(b"HEAD") else 0)
                    client.sendall(head + (body[: len(body) // 2] if number in found.cut else body))
                    if number in found.cut:
                        return

        threading.Thread(target=accept, daemon=True).start()
        yield found


def _head(file: object) -> bytes:
    lines = []
    while line := file.readline():  # type: ignore[attr-defined]
        lines.append(line)
        if line == b"\r\n":
            break
    return b"".join(lines)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port))):
            return
        assert process.poll() is None, "the server has ended"
        time.sleep(0.05)
    raise TimeoutError(f"no server at port {port}")
