"""Images that are files of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.regular_files import read_regular
from dali_pipelines.sources.base import ImageSource
from dali_pipelines.sources.paths import absolute

# What is decoded on both devices; GIF and AVIF are not among them.
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
_JPEG_2000 = (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")
_OTHERS = (".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
IMAGE_SUFFIXES = (*_JPEG, *_OTHERS, *_JPEG_2000)
ENDINGS = f"files that end in {', '.join(IMAGE_SUFFIXES)} count"
# No decoder takes more.
MOST_BYTES = 2**31 - 1


class FileSource(ImageSource):
    """A list of image files.

    Args:
        root: The folder that file names are relative to.
        names: Of the files, with "/" between folders.
        labels: As in ImageSource.
        classes: As in ImageSource.
    """

    kind = "files"

    def __init__(
        self, root: Path, names: Sequence[str], *, labels: NDArray[np.int64] | None, classes: tuple[str, ...]
    ) -> None:
        super().__init__(names, labels, classes)
        self.root = absolute(root)

    def place(self, index: int) -> str:
        """The path of the file."""
        return os.path.join(self.root, self.names[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        """The bytes of the file."""
        return np.frombuffer(read_regular(self.place(index), MOST_BYTES), dtype=np.uint8)


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image: not hidden, with the suffix of one."""
    return name[:1] != "." and name.lower().endswith(IMAGE_SUFFIXES)
