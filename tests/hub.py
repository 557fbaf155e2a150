"""A stand-in for the Hugging Face Hub: a server with its HTTP interface for downloads, and programs that ask it.

Source of the interface: huggingface_hub 2.4, file_download.py (get_hf_file_metadata) and utils/_http.py
(hf_raise_for_status).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub:
    """Repositories that are served. Each has one commit, which is main.

    Args:
        url: Address of the server.
        files: Content of each file, by "OWNER/NAME/FILE".
        asked: Method and path of each request so far.
        gated: Repositories that need a login.
        hanging: Repositories about which the server never answers.
    """

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.gated: set[str] = set()
        self.hanging: set[str] = set()
        self.closed = threading.Event()

    def add(self, name: str, folder: Path) -> None:
        """Serve the files of a folder as a repository."""
        self.files |= {f"{name}/{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def downloads(self, file: str) -> int:
        """Return how often a file was downloaded, by "OWNER/NAME/FILE"."""
        owner, name, file = file.split("/")
        paths = [path for method, path in self.asked if method == "GET"]
        return sum(path.startswith(f"/{owner}/{name}/resolve/") and path.endswith(f"/{file}") for path in paths)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and content.

        Args:
            path: /OWNER/NAME/resolve/REVISION/FILE, or /api/models/OWNER/NAME[/revision/REVISION], a list of files.
        """
        lists = path.startswith("/api/models/")
        owner, repository, *rest = path.removeprefix("/api/models").strip("/").split("/", 4)
        name, revision = f"{owner}/{repository}", rest[1] if rest else "main"
        if name in self.hanging:
            self.closed.wait()
        if name in self.gated and not lists:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        names = [key.removeprefix(f"{name}/") for key in self.files if key.startswith(f"{name}/")]
        if not names:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        commit = commit_of(name)
        if revision not in ("main", commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if lists:
            siblings = [{"rfilename": each} for each in names]
            return 200, {}, json.dumps({"id": name, "sha": commit, "siblings": siblings, "tags": []}).encode()
        content = self.files.get(f"{name}/{rest[2]}")
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        size, etag = str(len(content)), f'"{hashlib.sha256(content).hexdigest()}"'
        return 200, {"ETag": etag, "X-Repo-Commit": commit, "X-Linked-Size": size, "X-Linked-ETag": etag}, content


def commit_of(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


@contextmanager
def served() -> Iterator[Hub]:
    """Serve a hub from a thread."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.reply()

        def do_GET(self) -> None:
            self.reply()

        def reply(self) -> None:
            hub.asked.append((self.command, self.path))
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.closed.set()
        server.shutdown()
        server.server_close()


def environment(url: str, cache: Path, **changes: str) -> dict[str, str]:
    """Return the environment of a process that asks this server, which huggingface_hub reads when it is imported."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    times = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    return {**ours, **times, "HF_ENDPOINT": url, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", **changes}
