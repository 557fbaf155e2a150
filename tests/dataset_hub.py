"""A stand-in for the Hugging Face Hub's data sets: its HTTP interface for listing and for reading.

Source of the interface: huggingface_hub 2.4, hf_api.py (dataset_info, get_paths_info, list_repo_tree) and
hf_file_system.py. Large files are redirected to a storage with signed addresses, as the Hub does.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

NAME = "owner/photos"
TOKEN = "hf_hush"


@dataclass
class DatasetHub:
    """One data set, at the commit that `commit` names.

    Args:
        root: Folder of the data set's files.
        storage: Address of the storage that has the large files, which serves the same folder.
        url: Address of the server.
        commit: Commit that main is.
        asked: Method, path and Authorization of each request so far.
        needs_token: Whether only TOKEN may read.
    """

    root: Path
    storage: str
    url: str = ""
    commit: str = "a" * 40
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    needs_token: bool = False

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and content."""
        path = path.partition("?")[0]
        if path.startswith(f"/datasets/{NAME}/resolve/"):
            revision, _, file = path.removeprefix(f"/datasets/{NAME}/resolve/").partition("/")
            if revision not in ("main", self.commit) or not (self.root / file).is_file():
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            if file.endswith((".tar", ".jpg", ".parquet")):
                return 302, {"Location": f"{self.storage}/{file}?X-Amz-Signature=hush"}, b""
            return 200, {"ETag": '"x"'}, (self.root / file).read_bytes()
        kind, _, rest = path.removeprefix(f"/api/datasets/{NAME}").strip("/").partition("/")
        revision, _, folder = rest.partition("/")
        if not path.startswith(f"/api/datasets/{NAME}") or revision not in ("", "main", self.commit):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        found: object = {"id": NAME, "sha": self.commit, "siblings": [], "tags": []}
        if kind == "paths-info":
            asked = parse_qs(body.decode())["paths"]
            found = [self._described(file) for file in asked if (self.root / file).exists()]
        elif kind == "tree":
            found = [
                self._described(str(path.relative_to(self.root))) for path in sorted((self.root / folder).iterdir())
            ]
        return 200, {}, json.dumps(found).encode()

    def _described(self, file: str) -> dict[str, object]:
        if (self.root / file).is_dir():
            return {"type": "directory", "path": file, "oid": "0" * 40}
        content = (self.root / file).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        lfs = {"oid": digest, "size": len(content), "pointerSize": 128}
        return {"type": "file", "path": file, "oid": digest[:40], "size": len(content), "lfs": lfs}


@contextmanager
def served(root: Path, storage: str) -> Iterator[DatasetHub]:
    """Serve a folder as a data set, from a thread."""
    hub = DatasetHub(root, storage)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply()

        def do_HEAD(self) -> None:
            self.reply()

        def do_POST(self) -> None:
            self.reply()

        def reply(self) -> None:
            token = self.headers.get("Authorization")
            hub.asked.append((self.command, self.path, token))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if hub.needs_token and token != f"Bearer {TOKEN}":
                status, headers, content = 401, {"X-Error-Code": "GatedRepo"}, b""
            else:
                status, headers, content = hub.answer(self.command, self.path, body)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
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
        server.shutdown()
        server.server_close()
