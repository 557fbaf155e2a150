"""Read one tar file from its first header to its end, and check that it is whole."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from typing import NamedTuple

from dali_pipelines.errors import StorageError
from dali_pipelines.regular_files import open_regular
from dali_pipelines.sources.files import IMAGE_SUFFIXES
from dali_pipelines.sources.labels import MOST_CHARACTERS
from dali_pipelines.sources.paths import unreadable

# The limit for the headers of one member. A long name has some hundred bytes, extended attributes at most 64 KiB.
_MOST_HEADER_BYTES = 2**20
# A tar file ends with two zero blocks. Then zeros follow, up to a multiple of the writer's block size. That is rarely
# more than 1 MiB.
_END = bytes(2 * tarfile.BLOCKSIZE)
_MOST_PADDING = 2**26
_CHUNK = 2**20


class Member(NamedTuple):
    """A file in a tar file.

    Args:
        name: Name of the member.
        offset: Position of its bytes in the tar file.
        size: Number of its bytes.
    """

    name: str
    offset: int
    size: int


class Members(NamedTuple):
    """The images and labels of a tar file.

    Args:
        images: Members with the suffix of an image, in their order.
        labels: Texts of the .cls members, by name.
        left_out: Names of images that are links or other members without bytes.
    """

    images: list[Member]
    labels: dict[str, str]
    left_out: list[str]


class _ContentError(ValueError):
    """The error of a whole tar file whose members are not those of a shard."""


class _HeaderFile(io.BufferedReader):
    """A file that limits the bytes of one member's headers, because a header can claim any number."""

    allowed = _MOST_HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > self.allowed:
            raise tarfile.ReadError(f"the headers of one member have more than {_MOST_HEADER_BYTES} bytes")
        self.allowed -= size
        return super().read(size)


def read_members(path: str) -> Members:
    """Return the images and labels of a tar file.

    Python's tarfile reads the headers. It stops silently at a damaged header, and trusts any size that a header claims.
    Therefore this function checks that the members follow each other within the file, and that only zeros follow them.

    Args:
        path: Tar file.

    Raises:
        ValueError: If the file is not a whole, uncompressed tar file, or two images have the same name.
    """
    try:
        raw = open_regular(path)
    except OSError as error:
        raise unreadable(path, error) from error
    with raw:
        return members_in(raw, path, size=os.fstat(raw.fileno()).st_size)


def members_in(raw: io.RawIOBase, path: str, *, size: int, seen: Callable[[Member], None] | None = None) -> Members:
    """Return the images and labels of an open tar file, as read_members does.

    Args:
        raw: Tar file, open for reading. It may be closed afterwards.
        path: Path or URL of the file, for messages.
        size: Number of its bytes.
        seen: Function that is called with each image after its header was read, but must not move
            the position of `raw`.

    Raises:
        ValueError: If the file is not a whole, uncompressed tar file, or two images have the same name.
        StorageError: If a storage does not answer.
    """
    try:
        with _HeaderFile(raw) as file:
            return _members(file, raw, size=size, seen=seen)
    except StorageError:
        raise
    except _ContentError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # tarfile raises whatever its parsers raise
        raise ValueError(
            f"{path}: {type(error).__name__}: {error}; a shard must be a whole, uncompressed tar file"
        ) from error


def _members(file: _HeaderFile, raw: io.RawIOBase, *, size: int, seen: Callable[[Member], None] | None) -> Members:
    found = Members([], {}, [])
    names: set[str] = set()
    end = 0
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
        for member in archive:
            # Without this, tarfile keeps every member in memory.
            archive.members.clear()  # type: ignore[attr-defined]
            file.allowed = _MOST_HEADER_BYTES
            begin, end = end, archive.offset
            if not (begin <= member.offset < member.offset_data <= end <= size and member.size >= 0):
                raise tarfile.ReadError(
                    f"{member.name!r} at byte {member.offset} claims {member.size} bytes, and the file has {size}"
                )
            name = member.name.removeprefix("./")
            is_image = name.lower().endswith(IMAGE_SUFFIXES) and not name.rpartition("/")[2].startswith("._")
            if (not is_image and not name.endswith(".cls")) or member.isdir():
                continue
            if not member.isreg():
                found.left_out.append(name)
                continue
            if member.issparse():
                raise _ContentError(f"the member {name!r} is sparse; write the shard without --sparse")
            if is_image:
                if name in names:
                    raise _ContentError(f"two members are named {name!r}; keep one")
                names.add(name)
                found.images.append(Member(name, member.offset_data, member.size))
                if seen:
                    seen(found.images[-1])
            else:
                label = _label(file, member)
                if found.labels.setdefault(name, label) != label:
                    raise _ContentError(f"two members are named {name!r}; keep one")
        _check_end(raw, archive.offset, size)
    return found


def _label(file: _HeaderFile, member: tarfile.TarInfo) -> str:
    # A character has at most four bytes.
    if member.size > 4 * MOST_CHARACTERS:
        raise _ContentError(
            f"{member.name!r} has {member.size} bytes; a class has at most {MOST_CHARACTERS} characters"
        )
    file.seek(member.offset_data)
    try:
        label = file.read(member.size).decode().strip()
    except UnicodeDecodeError as error:
        raise _ContentError(f"{member.name!r} is not UTF-8: {error}") from error
    if len(label) > MOST_CHARACTERS:
        raise _ContentError(f"{member.name!r} has a class of more than {MOST_CHARACTERS} characters")
    return label


def _check_end(raw: io.RawIOBase, end: int, size: int) -> None:
    """Raise if the file has no end mark after its last member, or data after the end mark."""
    raw.seek(end)
    mark = raw.read(len(_END)) or b""
    if len(mark) < len(_END) and not any(mark):
        raise tarfile.ReadError(f"it is truncated at byte {size}, before the two zero blocks of its end")
    if any(mark[: tarfile.BLOCKSIZE]):
        raise tarfile.ReadError(f"the header at byte {end} is damaged or truncated")
    if any(mark):
        raise tarfile.ReadError(f"the end at byte {end} has one zero block instead of two")
    if size - end > _MOST_PADDING:
        raise tarfile.ReadError(f"{size - end} bytes follow the end at byte {end}")
    raw.seek(end)
    while chunk := raw.read(_CHUNK):
        if chunk.strip(b"\0"):
            raise tarfile.ReadError(
                f"data follow the end at byte {end}, perhaps from an appended archive; store it as a second shard"
            )
