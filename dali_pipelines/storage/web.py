"""Objects on web servers, by urllib3.

fsspec would read them too, through aiohttp. Each answer then wakes another thread, which waits for the interpreter's
lock next to the threads of a loader. benchmarks/LOG.md has the comparison.
"""

from __future__ import annotations

import netrc
import re
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from dali_pipelines.storage.stores import ChangedError, MissingError, Object, Range, RefusedError, Store

# A connection takes some round trips, of at most a second each around the world.
CONNECT_S = 10.0
# A server that sends no byte for so long does not answer.
SILENCE_S = 20.0
# Statuses that mean "later": request timeout, too early, too many requests. Others below 500 would come again.
LATER = (408, 425, 429)
_MOST_REDIRECTS = 5
_CONNECTIONS = 64


class Answer(NamedTuple):
    """What a web server answers.

    Args:
        status: Status, 200 or 206, or that of a redirection that is not followed.
        headers: Headers, with names in lower case.
        content: Bytes of the body.
    """

    status: int
    headers: dict[str, str]
    content: bytes


class WebStore(Store):
    """Objects behind http:// and https://. ~/.netrc and the environment's proxies are used."""

    def __init__(self) -> None:
        import urllib3

        self._options: dict[str, Any] = {
            "maxsize": _CONNECTIONS,
            "timeout": urllib3.Timeout(connect=CONNECT_S, read=SILENCE_S),
            # Tries are counted by the caller.
            "retries": urllib3.Retry(connect=0, read=0, other=0, status=0, redirect=_MOST_REDIRECTS),
        }
        self._pool_of = lru_cache(maxsize=None)(self._new_pool)

    def stat(self, url: str) -> Object:
        # One byte also shows whether the server answers with ranges, and needs no permission for HEAD.
        answer = self._ask(url, {"Range": "bytes=0-0"}, most=1)
        total = answer.headers.get("content-range", "").rpartition("/")[2]
        total = total if answer.status == 206 else answer.headers.get("content-length", "")
        if not total.isdigit():
            raise RefusedError("the server does not tell the size of the object")
        version = answer.headers.get("etag") or answer.headers.get("last-modified") or f"{total} bytes"
        return Object(url, int(total), version, has_ranges=answer.status == 206 or total == "0")

    def read(self, wanted: Range) -> bytes:
        return self._read_at(wanted.url, wanted, _condition(wanted) if wanted.is_pinned else {})

    def matches(self, pattern: str) -> list[str]:
        raise RefusedError("a web server lists no files; name them, with braces such as {0000..0146}, or in a list")

    def _read_at(self, url: str, wanted: Range, headers: dict[str, str]) -> bytes:
        if wanted.size is not None:
            headers = {**headers, "Range": f"bytes={wanted.start}-{wanted.start + wanted.size - 1}"}
        answer = self._ask(url, headers, most=wanted.size)
        if answer.status == 200 and wanted.size is not None and wanted.start:
            raise RefusedError("the server does not answer with byte ranges")
        return answer.content

    def _ask(
        self,
        url: str,
        headers: dict[str, str],
        *,
        most: int | None = None,
        method: str = "GET",
        follows: bool = True,
    ) -> Answer:
        """Return the answer to a request, with at most `most` bytes of its body, or raise its error."""
        parts = urlsplit(url)
        login = {} if "authorization" in headers else _login_of(parts.hostname or "")
        response = self._pool_of(parts.scheme, parts.hostname or "").request(
            method,
            url,
            headers={"Accept-Encoding": "identity", **login, **headers},
            redirect=follows,
            preload_content=False,
            **({} if follows else {"retries": False}),
        )
        try:
            found = {name.lower(): value for name, value in response.headers.items()}
            if response.status == 416 and found.get("content-range", "").endswith("/0"):
                return Answer(200, {**found, "content-length": "0"}, b"")
            _check(response.status, response.reason)
            content: bytes = response.read(most)
            # What follows is the rest of an object, from a server without ranges.
            is_read = response.status != 200 or most is None or not response.read(1)
            if not is_read:
                response.close()
            return Answer(response.status, found, content)
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()

    def _new_pool(self, scheme: str, host: str) -> Any:
        import urllib3

        proxy = None if proxy_bypass(host) else getproxies().get(scheme)
        return urllib3.ProxyManager(proxy, **self._options) if proxy else urllib3.PoolManager(**self._options)


def _check(status: int, reason: str | None) -> None:
    text = f"the server answers {status} {reason or ''}".strip()
    if status == 412:
        raise ChangedError("the object has changed")
    if status in (404, 410):
        raise MissingError(text)
    if 400 <= status < 500 and status not in LATER:
        raise RefusedError(text)
    if status >= 400:
        raise OSError(text)


def _condition(wanted: Range) -> dict[str, str]:
    """Return the headers with which a server answers only if the object has its version."""
    if wanted.version.startswith('"'):
        return {"If-Match": wanted.version}
    # A weak ETag never matches. A date looks like this: Sun, 29 Nov 2026 14:00:00 GMT.
    if re.match(r"[A-Z][a-z]{2}, \d", wanted.version):
        return {"If-Unmodified-Since": wanted.version}
    return {}


@lru_cache(maxsize=1024)
def _login_of(host: str) -> dict[str, str]:
    """Return the header of the login that ~/.netrc has for a host."""
    from urllib3.util import make_headers

    try:
        found = netrc.netrc().authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return {}
    return dict(make_headers(basic_auth=f"{found[0]}:{found[2]}")) if found else {}
