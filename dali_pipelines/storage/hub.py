"""Files of datasets on the Hugging Face Hub: hf://datasets/OWNER/NAME[@REVISION]/FILE.

huggingface_hub lists files and finds the token. Bytes are read from the address to which the Hub redirects, and that
address is kept for some minutes. Otherwise each image would cost a request to the Hub, which limits their number.
"""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from dali_pipelines.storage.stores import Done, MissingError, Object, Range, RefusedError
from dali_pipelines.storage.web import LATER, WebStore

_FORM = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Signed addresses of the Hub's storage are valid for about an hour.
_VALID_S = 600.0
_MOST_REDIRECTS = 5


class HubStore(WebStore):
    """Files of datasets on the Hub, at fixed commits."""

    def __init__(self) -> None:
        from huggingface_hub import HfApi, HfFileSystem

        super().__init__()
        self._api = HfApi()
        self._hub_files = HfFileSystem(endpoint=self._api.endpoint, use_listings_cache=False)
        self._addresses: dict[str, tuple[str, float]] = {}

    def fixed(self, url: str) -> str:
        """Return the URL with the commit of its revision."""
        name, revision, file = _parts(url)
        if _COMMIT.fullmatch(revision):
            return url
        commit = self._asked(lambda: self._api.dataset_info(name, revision=revision).sha)
        return f"hf://datasets/{name}@{commit}/{file}"

    def stat(self, url: str) -> Object:
        name, revision, file = _parts(url)
        found = self._asked(lambda: self._api.get_paths_info(name, [file], revision=revision, repo_type="dataset"))
        if not found or not hasattr(found[0], "blob_id"):
            raise MissingError("the dataset has no such file")
        return Object(url, found[0].size, found[0].lfs.sha256 if found[0].lfs else found[0].blob_id)

    def matches(self, pattern: str) -> list[str]:
        found = self._asked(lambda: self._hub_files.glob(pattern.removeprefix("hf://")))
        name, revision, _ = _parts(pattern)
        # The file system may write the revision in another way.
        files = (str(path).split("/", 3)[3] for path in found)
        return sorted(f"hf://datasets/{name}@{revision}/{file}" for file in files)

    def read(self, wanted: Range) -> bytes:
        address, is_kept = self._address(wanted.url)
        try:
            return self._read_at(address, wanted, self._login(address))
        except RefusedError:
            if not is_kept:
                raise
        with self._lock:
            self._addresses.pop(wanted.url, None)
        address, _ = self._address(wanted.url)
        return self._read_at(address, wanted, self._login(address))

    def start(self, wanted: Range, done: Done) -> bool:
        with self._lock:
            address, until = self._addresses.get(wanted.url, ("", 0.0))
        # An address that is not known yet must be waited for.
        return time.monotonic() < until and self._start_at(address, wanted, self._login(address), done)

    def _address(self, url: str) -> tuple[str, bool]:
        """Return the address of a file's bytes, and whether it was kept."""
        with self._lock:
            address, until = self._addresses.get(url, ("", 0.0))
        if time.monotonic() < until:
            return address, True
        name, revision, file = _parts(url)
        start = f"{self._api.endpoint}/datasets/{name}/resolve/{quote(revision, safe='')}/{quote(file)}"
        address = self._redirected(start)
        with self._lock:
            self._addresses[url] = address, time.monotonic() + _VALID_S
        return address, False

    def _redirected(self, address: str) -> str:
        for _ in range(_MOST_REDIRECTS):
            answer = self._ask(address, self._login(address), has_headers=True, is_head=True, follows=False)
            if answer.status not in (301, 302, 303, 307, 308):
                return address
            address = urljoin(address, answer.headers["location"])
            if urlsplit(address).netloc != urlsplit(self._api.endpoint).netloc:
                return address
        raise RefusedError("the Hub redirects in a circle")

    def _login(self, address: str) -> dict[str, str]:
        """Return the headers of a login, for the Hub alone: its storage must not see the token."""
        from huggingface_hub.utils import build_hf_headers

        if urlsplit(address).netloc != urlsplit(self._api.endpoint).netloc:
            return {}
        headers: dict[str, str] = build_hf_headers()
        return headers

    @staticmethod
    def _asked(question: Any) -> Any:
        """Return the answer of a function of huggingface_hub, with its error in our words."""
        try:
            return question()
        except FileNotFoundError as error:
            raise MissingError(str(error).splitlines()[0]) from error
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            if status == 404:
                raise MissingError(reason) from error
            if status is not None and 400 <= status < 500 and status not in LATER:
                raise RefusedError(f"{reason}. Set HF_TOKEN if the dataset is private or gated") from error
            raise


def _parts(url: str) -> tuple[str, str, str]:
    """Return owner and name, revision and file of a URL."""
    match = _FORM.fullmatch(url)
    if match is None:
        raise RefusedError("is not hf://datasets/OWNER/NAME[@REVISION]/FILE; models and spaces are not read")
    return match["name"], match["revision"] or "main", match["file"]
