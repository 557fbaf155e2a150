"""Objects in buckets: s3:// by s3fs, gs:// by gcsfs. The libraries find the credentials themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from dali_pipelines.storage.stores import ChangedError, MissingError, Object, Range, RefusedError, Store
from dali_pipelines.storage.urls import protocol_of
from dali_pipelines.storage.web import CONNECT_S, LATER, SILENCE_S

T = TypeVar("T")

# Slower than this, a range counts as lost.
_SLOWEST_BYTES_PER_S = 250_000


class _BucketStore(Store):
    """What both kinds of buckets have in common.

    Args:
        files: File system of fsspec.
    """

    def __init__(self, files: Any) -> None:
        self._files = files

    def stat(self, url: str) -> Object:
        info = _done(self._files._info(_path(url)), 0)
        if info["type"] != "file":
            raise MissingError("there is a folder instead of an object")
        return Object(url, int(info["size"]), self._version(info))

    def matches(self, pattern: str) -> list[str]:
        found = _done(self._files._glob(_path(pattern)), 0)
        return sorted(f"{protocol_of(pattern)}://{path}" for path in found)

    def _version(self, info: dict[str, Any]) -> str:
        raise NotImplementedError


class S3Store(_BucketStore):
    """Objects behind s3://."""

    def __init__(self) -> None:
        import s3fs

        waits = {"connect_timeout": CONNECT_S, "read_timeout": SILENCE_S, "retries": {"max_attempts": 1}}
        # A kept listing would hide a change.
        files = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs={**waits, "max_pool_connections": 64})
        files.retries = 1  # tries are counted by the caller
        super().__init__(files)

    def read(self, wanted: Range) -> bytes:
        return _done(self._read(wanted), wanted.size or 0)

    async def _read(self, wanted: Range) -> bytes:
        bucket, key, _ = self._files.split_path(_path(wanted.url))
        options = {}
        if wanted.size is not None:
            options["Range"] = f"bytes={wanted.start}-{wanted.start + wanted.size - 1}"
        if wanted.is_pinned and wanted.version.startswith('"'):
            options["IfMatch"] = wanted.version
        answer = await self._files._call_s3("get_object", Bucket=bucket, Key=key, **options)
        async with answer["Body"] as body:
            content: bytes = await body.read()
        return content

    def _version(self, info: dict[str, Any]) -> str:
        return str(info.get("ETag") or f"{info['size']} bytes of {info.get('LastModified')}")


class GoogleStore(_BucketStore):
    """Objects behind gs://."""

    def __init__(self) -> None:
        # gcsfs's default class asks by gRPC for the kind of the bucket. Where it gets no answer, it asks again for each
        # range, and it does not pass on the generation to all kinds.
        from gcsfs.core import GCSFileSystem

        super().__init__(GCSFileSystem(use_listings_cache=False))

    def read(self, wanted: Range) -> bytes:
        end = None if wanted.size is None else wanted.start + wanted.size
        start = None if wanted.size is None else wanted.start
        # A generation that was replaced is not found, if the bucket does not keep old ones.
        generation = {"generation": wanted.version} if wanted.is_pinned and wanted.version.isdigit() else {}
        try:
            content: bytes = _done(self._files._cat_file(_path(wanted.url), start, end, **generation), wanted.size or 0)
        except MissingError as error:
            raise (ChangedError("the object has changed") if generation else error) from error
        return content

    def _version(self, info: dict[str, Any]) -> str:
        return str(info.get("generation") or info.get("etag") or f"{info['size']} bytes of {info.get('updated')}")


def _path(url: str) -> str:
    return url.split("://", 1)[1]


def _done(work: Coroutine[Any, Any, T], size: int) -> T:
    """Return the result of a coroutine, with its error in our words."""
    longest_s = CONNECT_S + SILENCE_S + size / _SLOWEST_BYTES_PER_S
    try:
        return on_loop(asyncio.wait_for(work, longest_s))
    except Exception as error:
        raise _translated(error) from error


def _translated(error: Exception) -> Exception:
    chain = list(_chain(error))
    statuses = [status for each in chain if (status := _status(each)) is not None]
    name = type(chain[-1]).__name__
    text = f"{name}: {chain[-1]}"
    if 412 in statuses:
        return ChangedError("the object has changed")
    if isinstance(error, FileNotFoundError) or 404 in statuses:
        return MissingError(text)
    is_refused = isinstance(error, PermissionError) or "Credential" in name or "Forbidden" in str(error)
    if is_refused or any(400 <= status < 500 and status not in LATER for status in statuses):
        return RefusedError(text)
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status in an error of botocore, aiohttp or gcsfs."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
    code = getattr(error, "status", None) or getattr(error, "code", None)
    return code if isinstance(code, int) else None


def on_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on fsspec's event loop, and wait for it.

    Args:
        work: Coroutine. It has its own time-outs.
    """
    from fsspec.asyn import get_loop

    future = asyncio.run_coroutine_threadsafe(work, get_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
