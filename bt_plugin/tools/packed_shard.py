"""Write one tar shard with its index, and verify what is on the disk."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

from bt_plugin.errors import FileError
from bt_plugin.tools.packed_image import PackedImage
from dali_pipelines.regular_files import open_regular
from dali_pipelines.sources.tar_reader import Member, read_members

_END = 2 * tarfile.BLOCKSIZE
# The first word of an index of DALI's fn.readers.webdataset, as its tool wds2idx writes it.
_INDEX_VERSION = "v1.2"
KEY_DIGITS = 9


class IndexedImage(NamedTuple):
    """An image of a shard.

    Args:
        position: Position of the image in the source.
        name: Name of the member.
    """

    position: int
    name: str


class ShardWriter:
    """A writer of a tar shard, image by image. The same images give the same bytes.

    Args:
        path: New file, which is replaced if it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "wb", buffering=2**20)  # noqa: SIM115 - closed by close
        self._images: list[Member] = []
        self._digests: list[bytes] = []
        self._labels: dict[str, str] = {}
        self._index: list[str] = []

    def __len__(self) -> int:
        return len(self._images)

    def add(self, position: int, image: PackedImage, label: int | None) -> None:
        """Append an image and its label.

        Args:
            position: Position of the image in the source, which becomes its WebDataset key.
            image: The image's file.
            label: Number of the class, or None.
        """
        key = f"{position:0{KEY_DIGITS}}"
        name = f"{key}.{image.suffix}"
        member = Member(name, self._append(name, image.content), len(image.content))
        self._images.append(member)
        self._digests.append(_digest(image.content))
        line = f"{image.suffix} {member.offset} {member.size} {name}"
        if label is not None:
            text = str(label)
            self._labels[f"{key}.cls"] = text
            line += f" cls {self._append(f'{key}.cls', text.encode())} {len(text)} {key}.cls"
        self._index.append(line)

    def close(self) -> None:
        """Write the end of the tar file, and wait until it is on the disk."""
        with self._file as file:
            end = file.tell() + _END
            file.write(bytes(_END + -end % tarfile.RECORDSIZE))
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                # What is read back comes from the disk then, not from this machine's memory.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def abandon(self) -> None:
        """Close and remove the file."""
        try:
            self._file.close()
        finally:
            self.path.unlink(missing_ok=True)

    def verify(self) -> None:
        """Read the closed file as the loader does, and compare each member with what was written.

        Raises:
            FileError: If a member differs.
        """
        try:
            found = read_members(str(self.path))
        except ValueError as error:
            raise _damaged(self.path, str(error)) from error
        if found.images != self._images or found.labels != self._labels or found.left_out:
            raise _damaged(self.path, "its members are not those that were written")
        with open_regular(self.path) as file:
            for member, digest in zip(self._images, self._digests):
                if _digest(os.pread(file.fileno(), member.size, member.offset)) != digest:
                    raise _damaged(self.path, f"the member {member.name} has other bytes than were written")

    def index(self) -> str:
        """Return the text of the shard's index for DALI's fn.readers.webdataset."""
        return "\n".join([f"{_INDEX_VERSION} {len(self._index)}", *self._index]) + "\n"

    def _append(self, name: str, content: bytes) -> int:
        """Append a member, and return the position of its bytes."""
        header = tarfile.TarInfo(name)
        header.size = len(content)
        self._file.write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self._file.tell()
        self._file.write(content)
        self._file.write(bytes(-len(content) % tarfile.BLOCKSIZE))
        return offset


def images_of_index(path: Path) -> list[IndexedImage]:
    """Return the images that an index of `ShardWriter` names.

    Args:
        path: The index.
    """
    names = [line.split(" ", 4)[3] for line in path.read_text().splitlines()[1:]]
    return [IndexedImage(int(name.partition(".")[0]), name) for name in names]


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _damaged(path: Path, what: str) -> FileError:
    return FileError(
        f"{path}: was read back after it was written, and differs: {what}. Check the disk or the network storage, then"
        " rerun the same command"
    )
