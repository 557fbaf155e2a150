"""One tar file, read from its first header to its proven end."""

from __future__ import annotations

import io
import os
import tarfile
from typing import NamedTuple

from dali_pipelines.regular_files import open_regular
from dali_pipelines.sources.files import IMAGE_SUFFIXES
from dali_pipelines.sources.labels import MOST_CHARACTERS
from dali_pipelines.sources.paths import unreadable

# What the headers of one member may take. A long name is some hundred bytes, extended attributes at most 64 KiB.
_MOST_HEADER_BYTES = 2**20
# Two zero blocks end a tar file. Zeros up to a multiple of the writer's block size, rarely more than 1 MiB, follow.
_END = bytes(2 * tarfile.BLOCKSIZE)
_MOST_PADDING = 2**26
_CHUNK = 2**20


class Member(NamedTuple):
    """A file in a tar file, and where its bytes are."""

    name: str
    offset: int
    size: int


class Members(NamedTuple):
    """What a tar file has.

    Args:
        images: Files with the suffix of an image, in their order.
        labels: The texts of the .cls files, by name.
        left_out: Names of images that are links or other things without bytes of their own.
    """

    images: list[Member]
    labels: dict[str, str]
    left_out: list[str]


class _ContentError(ValueError):
    """A whole tar file whose members are not what a shard has."""


class _HeaderFile(io.BufferedReader):
    """A file whose reader may ask for so many bytes only; a header can claim any number."""

    allowed = _MOST_HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > self.allowed:
            raise tarfile.ReadError(f"headers of one member with more than {_MOST_HEADER_BYTES} bytes")
        self.allowed -= size
        return super().read(size)


def read_members(path: str) -> Members:
    """Return the images and labels of a tar file.

    Python's tarfile reads the headers. It ends in silence at a damaged one and follows any size that a header claims,
    so it is checked that members follow each other within the file, and that nothing but zeros is after them.

    Args:
        path: The tar file.

    Raises:
        ValueError: If it is no whole tar file, or two members that are read have the same name.
    """
    try:
        raw = open_regular(path)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        with raw, _HeaderFile(raw) as file:
            return _members(file)
    except _ContentError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # tarfile raises whatever its parsers raise
        raise ValueError(
            f"{path}: {type(error).__name__}: {error}; a shard must be a whole, uncompressed tar file"
        ) from error


def _members(file: _HeaderFile) -> Members:
    found = Members([], {}, [])
    names: set[str] = set()
    size = os.fstat(file.fileno()).st_size
    end = 0
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
        for member in archive:
            # It keeps every member that it has seen.
            archive.members.clear()  # type: ignore[attr-defined]
            file.allowed = _MOST_HEADER_BYTES
            begin, end = end, archive.offset
            if not (begin <= member.offset < member.offset_data <= end <= size and member.size >= 0):
                raise tarfile.ReadError(
                    f"{member.name!r} at byte {member.offset} has {member.size} bytes, and the file has {size}"
                )
            name = member.name.removeprefix("./")
            is_image = name.lower().endswith(IMAGE_SUFFIXES) and not name.rpartition("/")[2].startswith("._")
            if (not is_image and not name.endswith(".cls")) or member.isdir():
                continue
            if not member.isreg():
                found.left_out.append(name)
                continue
            if member.issparse():
                raise _ContentError(f"the member {name!r} is sparse; write it without --sparse")
            if is_image:
                if name in names:
                    raise _ContentError(f"two members are named {name!r}; keep one")
                names.add(name)
                found.images.append(Member(name, member.offset_data, member.size))
            else:
                label = _label(file, member)
                if found.labels.setdefault(name, label) != label:
                    raise _ContentError(f"two members are named {name!r}; keep one")
        _check_end(file.fileno(), archive.offset, size)
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


def _check_end(descriptor: int, end: int, size: int) -> None:
    """Refuse a file that has no end mark after its last member, or anything but zeros after that."""
    mark = os.pread(descriptor, len(_END), end)
    if len(mark) < len(_END) and not any(mark):
        raise tarfile.ReadError(f"it is cut short at byte {size}, before the two zero blocks of its end")
    if any(mark[: tarfile.BLOCKSIZE]):
        raise tarfile.ReadError(f"the header at byte {end} is damaged or cut short")
    if any(mark):
        raise tarfile.ReadError(f"the end at byte {end} has one zero block instead of two")
    if size - end > _MOST_PADDING:
        raise tarfile.ReadError(f"{size - end} bytes follow the end at byte {end}")
    for offset in range(end, size, _CHUNK):
        if os.pread(descriptor, _CHUNK, offset).strip(b"\0"):
            raise tarfile.ReadError(
                f"data follow the end at byte {end}, perhaps of an archive that was appended; give both as two shards"
            )
