"""Objects on web servers, by libcurl.

fsspec and urllib3 could read them too. Their Python code needs several times the processor time of libcurl for each
image, and it competes with the loader's threads for the interpreter's lock. See benchmarks/LOG.md.
"""

from __future__ import annotations

import netrc
import os
import re
import ssl
import threading
from base64 import b64encode
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from dali_pipelines.storage.stores import ChangedError, Done, MissingError, Object, Range, RefusedError, Store
from dali_pipelines.storage.web_transfers import Body, Transfer, WebTransfers

# A connection takes some round trips, of at most a second each around the world.
CONNECT_S = 10.0
# A server that sends no byte for so long does not answer.
SILENCE_S = 20.0
# Statuses that mean "later": request timeout, too early, too many requests. Others below 500 would come again.
LATER = (408, 425, 429)
_MOST_REDIRECTS = 5
# Most images arrive in one piece, which is then not copied again.
_PIECE_BYTES = 2**19


class Answer(NamedTuple):
    """What a web server answers.

    Args:
        status: Status, 200 or 206, or that of a redirection that is not followed.
        headers: Headers, with names in lower case. Empty if they were not wanted.
        content: Bytes of the body.
    """

    status: int
    headers: dict[str, str]
    content: bytes


class WebStore(Store):
    """Objects behind http:// and https://. ~/.netrc and the environment's proxies are used."""

    def __init__(self) -> None:
        import pycurl

        self._curl = pycurl
        # A handle keeps its connections. Threads may not share it, and neither may processes after a fork.
        self._handles = threading.local()
        self._of_process: dict[int, WebTransfers] = {}
        self._lock = threading.Lock()

    def stat(self, url: str) -> Object:
        # One byte also shows whether the server answers with ranges, and needs no permission for HEAD.
        answer = self._ask(url, {"Range": "bytes=0-0"}, most=1, has_headers=True)
        total = answer.headers.get("content-range", "").rpartition("/")[2]
        total = total if answer.status == 206 else answer.headers.get("content-length", "")
        if not total.isdigit():
            raise RefusedError("the server does not tell the size of the object")
        version = answer.headers.get("etag") or answer.headers.get("last-modified") or f"{total} bytes"
        return Object(url, int(total), version, has_ranges=answer.status == 206 or total == "0")

    def read(self, wanted: Range) -> bytes:
        return self._read_at(wanted.url, wanted, _condition(wanted) if wanted.is_pinned else {})

    def start(self, wanted: Range, done: Done) -> bool:
        return self._start_at(wanted.url, wanted, _condition(wanted) if wanted.is_pinned else {}, done)

    def matches(self, pattern: str) -> list[str]:
        raise RefusedError("a web server lists no files; name them, with braces such as {0000..0146}, or in a list")

    def _read_at(self, url: str, wanted: Range, headers: dict[str, str]) -> bytes:
        answer = self._ask(url, {**headers, **_range(wanted)}, most=wanted.size)
        if answer.status == 200 and wanted.size is not None and wanted.start:
            raise RefusedError("the server does not answer with byte ranges")
        return answer.content

    def _start_at(self, url: str, wanted: Range, headers: dict[str, str], done: Done) -> bool:
        assert wanted.size is not None, "a transfer must know when its range is complete"
        headers = {**headers, **_range(wanted)}

        def prepare(handle: Any, body: Body) -> None:
            self._prepare(handle, body, url, headers)

        self._transfers().add(Transfer(prepare, wanted.start, wanted.size, done))
        return True

    def _transfers(self) -> WebTransfers:
        """Return the transfers of this process: a child has no threads of its parent."""
        with self._lock:
            if os.getpid() not in self._of_process:
                self._of_process[os.getpid()] = WebTransfers(self._new_handle)
            return self._of_process[os.getpid()]

    def _ask(
        self,
        url: str,
        headers: dict[str, str],
        *,
        most: int | None = None,
        has_headers: bool = False,
        is_head: bool = False,
        follows: bool = True,
    ) -> Answer:
        """Return the answer to a request, with at most `most` bytes of its body, or raise its error."""
        curl, handle = self._curl, self._handle()
        body, found = Body(most), dict[str, str]()
        self._prepare(handle, body, url, headers, is_head=is_head, follows=follows)
        if has_headers:
            handle.setopt(curl.HEADERFUNCTION, lambda line: _add_header(line, found))
        try:
            handle.perform()
        except curl.error as error:
            if not body.is_cut:
                raise OSError(handle.errstr() or str(error)) from None
        finally:
            handle.unsetopt(curl.HEADERFUNCTION)
            handle.unsetopt(curl.WRITEFUNCTION)  # the handle would keep the body until the next request
        status = handle.getinfo(curl.RESPONSE_CODE)
        if status == 416 and found.get("content-range", "").endswith("/0"):
            return Answer(200, {**found, "content-length": "0"}, b"")
        _check(status)
        return Answer(status, found, body.content())

    def _prepare(
        self, handle: Any, body: Body, url: str, headers: dict[str, str], *, is_head: bool = False, follows: bool = True
    ) -> None:
        """Set the options of a request on a handle."""
        curl, host = self._curl, urlsplit(url).hostname or ""
        login = {} if "authorization" in headers else _login_of(host)
        sent = {"Accept-Encoding": "identity", **login, **headers}
        handle.setopt(curl.URL, url)
        handle.setopt(curl.PROXY, _proxy_of(url.partition(":")[0], host))
        handle.setopt(curl.HTTPHEADER, [f"{name}: {value}" for name, value in sent.items()])
        handle.setopt(curl.FOLLOWLOCATION, follows)
        handle.setopt(curl.NOBODY, is_head)
        handle.setopt(curl.WRITEFUNCTION, body.add)

    def _handle(self) -> Any:
        """Return the handle of this thread."""
        of_process: dict[int, Any] = self._handles.__dict__.setdefault("of_process", {})
        if os.getpid() not in of_process:
            of_process[os.getpid()] = self._new_handle()
        return of_process[os.getpid()]

    def _new_handle(self) -> Any:
        curl, handle, trusted = self._curl, self._curl.Curl(), ssl.get_default_verify_paths()
        options = {
            curl.NOSIGNAL: 1,  # without it, libcurl's signals interrupt other threads
            curl.BUFFERSIZE: _PIECE_BYTES,
            curl.CONNECTTIMEOUT_MS: int(1000 * CONNECT_S),
            curl.LOW_SPEED_LIMIT: 1,
            curl.LOW_SPEED_TIME: int(SILENCE_S),
            curl.MAXREDIRS: _MOST_REDIRECTS,
            curl.PROTOCOLS: curl.PROTO_HTTP | curl.PROTO_HTTPS,
            curl.REDIR_PROTOCOLS: curl.PROTO_HTTP | curl.PROTO_HTTPS,
            curl.HTTP_VERSION: curl.CURL_HTTP_VERSION_1_1,
            # The certificates that Python trusts, also by SSL_CERT_FILE. Otherwise those of the library's build.
            **({curl.CAINFO: trusted.cafile} if trusted.cafile else {}),
            **({curl.CAPATH: trusted.capath} if trusted.capath else {}),
        }
        for option, value in options.items():
            handle.setopt(option, value)
        return handle


def _add_header(line: bytes, found: dict[str, str]) -> None:
    text = line.decode("latin-1").strip()
    if text.startswith("HTTP/"):
        found.clear()  # before it were the headers of a redirection
    name, colon, value = text.partition(":")
    if colon:
        found[name.lower()] = value.strip()


def _check(status: int) -> None:
    if status < 400:
        return
    phrase = next((each.phrase for each in HTTPStatus if each == status), "")
    text = f"the server answers {status} {phrase}".strip()
    if status == 412:
        raise ChangedError("the object has changed")
    if status in (404, 410):
        raise MissingError(text)
    if status < 500 and status not in LATER:
        raise RefusedError(text)
    raise OSError(text)


def _range(wanted: Range) -> dict[str, str]:
    """Return the header that asks for a range, none for a whole object."""
    if wanted.size is None:
        return {}
    return {"Range": f"bytes={wanted.start}-{wanted.start + wanted.size - 1}"}


def _condition(wanted: Range) -> dict[str, str]:
    """Return the headers with which a server answers only if the object has its version."""
    if wanted.version.startswith('"'):
        return {"If-Match": wanted.version}
    # A weak ETag never matches. A date looks like this: Sun, 29 Nov 2026 14:00:00 GMT.
    if re.match(r"[A-Z][a-z]{2}, \d", wanted.version):
        return {"If-Unmodified-Since": wanted.version}
    return {}


@lru_cache(maxsize=1024)
def _proxy_of(scheme: str, host: str) -> str:
    """Return the URL of the proxy that the environment has for a host, or an empty text."""
    return "" if proxy_bypass(host) else getproxies().get(scheme, "")


@lru_cache(maxsize=1024)
def _login_of(host: str) -> dict[str, str]:
    """Return the header of the login that ~/.netrc has for a host."""
    try:
        found = netrc.netrc().authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return {}
    return {"Authorization": f"Basic {b64encode(f'{found[0]}:{found[2]}'.encode()).decode()}"} if found else {}
