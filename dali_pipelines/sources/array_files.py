"""Read files of arrays, after checking that their headers agree with their sizes."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from io import FileIO
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from dali_pipelines.regular_files import open_regular
from dali_pipelines.sources.arrays import ArraySource, array_source
from dali_pipelines.sources.paths import absolute, unreadable

_ZIP_BEGINS = (b"PK\x03\x04", b"PK\x05\x06")
# The end of a zip file without a comment. Only its number of entries is used; 64-bit files store it elsewhere.
_END = struct.Struct("<4s6xH10x")
_MANY_ENTRIES = 2**16 - 1
_READ = ("images", "labels", "classes")
_UNREAD = np.empty(0)
_REMEDY = "write it again with numpy.savez(images=...)"


class Header(NamedTuple):
    """The header of an array: its shape, whether it is stored by columns, and the type of its numbers."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]


def array_file(path: str | Path) -> ArraySource:
    """Open a .npz file with the array `images` and, optionally, `labels` and `classes`; or a .npy file of images.

    `classes` has the names of the classes, which the labels are indices into. Without it, the labels are the names.

    A .npz file is read into memory. The pages of a .npy file are read as needed.

    Args:
        path: File of arrays.

    Raises:
        ValueError: If the file cannot be read, is damaged, has no `images`, or its arrays do not fit array_source.
    """
    path = absolute(path)
    try:
        with open_regular(path) as file:
            begin = file.read(4)
            file.seek(0)
            arrays = _unpacked(file) if begin in _ZIP_BEGINS else {"images": _mapped(file)}
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # numpy and zipfile raise whatever their parsers and decompressors raise
        raise ValueError(f"{path}: not a file of arrays, or damaged: {str(error)[:300]}; {_REMEDY}") from error
    try:
        if "images" not in arrays:
            names = ", ".join(name if name.isprintable() else repr(name) for name in arrays)
            raise ValueError(f"it has {names[:300] or 'no arrays'}, and must have the array images")
        return array_source(arrays["images"], arrays.get("labels"), _class_names(arrays.get("classes")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _class_names(classes: NDArray[Any] | None) -> list[str] | None:
    if classes is None:
        return None
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise ValueError(
            f"classes: shape {classes.shape} of {classes.dtype} is not allowed; it must be (n_classes,) of text, such"
            " as numpy.array(['cat', 'dog'])"
        )
    names: list[str] = classes.tolist()
    if len(set(names)) < len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"classes: has {twice!r} twice; give every class a name of its own")
    return names


def _mapped(file: FileIO) -> NDArray[Any]:
    """Return the array of a .npy file, whose pages are read when they are needed."""
    header = read_header(file)
    begin = file.tell()
    check_size(header, os.fstat(file.fileno()).st_size - begin)
    order: Literal["C", "F"] = "F" if header.is_fortran else "C"
    mapped: NDArray[Any] = np.memmap(file, header.dtype, "r", begin, header.shape, order)
    return mapped


def _unpacked(file: FileIO) -> dict[str, NDArray[Any]]:
    """Return the arrays of a .npz file by name. Arrays that are not needed are empty."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        if len(entries) < len(archive.infolist()):
            raise ValueError("two of its arrays have the same name")
        if _claimed_entries(file) not in (len(entries), _MANY_ENTRIES):
            raise ValueError("its directory has a different number of arrays than its end claims")
        for entry in entries.values():
            # This compares the entry's own header with the directory. Without it, the directory's name would count.
            archive.open(entry).close()
        return {name: _read(archive, entry) if name in _READ else _UNREAD for name, entry in entries.items()}


def _claimed_entries(file: FileIO) -> int:
    """Return the number of entries that the end of a zip file claims. zipfile itself does not check it."""
    end = os.pread(file.fileno(), _END.size, os.fstat(file.fileno()).st_size - _END.size)
    mark, entries = _END.unpack(end)
    if mark != b"PK\x05\x06":
        raise ValueError("its end is damaged or followed by a comment")
    return int(entries)


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(entry) as content:
        header = read_header(content)
        check_size(header, entry.file_size - content.tell())
        available = psutil.virtual_memory().available
        if entry.file_size > available:
            raise ValueError(
                f"{entry.filename} has {entry.file_size} bytes, and {available} bytes of memory are free; save the"
                " images as a .npy file, which is read as needed"
            )
    with archive.open(entry) as content:
        array: NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
        # zipfile compares the checksum only at the end of the entry.
        content.read()
    return array


def read_header(file: IO[bytes]) -> Header:
    """Read the header of an array in numpy's format.

    Args:
        file: File at the begin of the array. Afterwards it is at the begin of its numbers.

    Raises:
        ValueError: If the header is damaged, or the array has Python objects.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of numpy's format is not supported")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header = Header(*read(file))
    if header.dtype.hasobject:
        raise ValueError("it contains Python objects instead of numbers")
    return header


def check_size(header: Header, size: int) -> None:
    """Raise if a header claims more or fewer bytes than the file has.

    Args:
        header: Header of the array.
        size: Number of bytes after the header.

    Raises:
        ValueError: If they do not agree.
    """
    if min(header.shape, default=0) < 0:
        raise ValueError(f"the shape {header.shape} is negative")
    claimed = math.prod(header.shape) * header.dtype.itemsize
    if claimed != size:
        raise ValueError(
            f"{header.shape} of {header.dtype} need {claimed} bytes, and it has {size}; it is truncated or damaged"
        )
