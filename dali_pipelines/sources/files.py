"""The source of images that are files of their own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.regular_files import read_regular
from dali_pipelines.sources.base import ImageSource
from dali_pipelines.sources.paths import absolute

# Suffixes of the formats that both devices decode, and of those that full_depth reads. GIF and AVIF are not among them.
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
_JPEG_2000 = (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")
_OTHERS = (".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
_DICOM = (".dcm", ".dicom")
# Next to other images, .npy files are mostly their features or masks.
ARRAY_SUFFIX = ".npy"
IMAGE_SUFFIXES = (*_JPEG, *_OTHERS, *_JPEG_2000, *_DICOM, ARRAY_SUFFIX)
ENDINGS = f"files that end in {', '.join(IMAGE_SUFFIXES)} are images"
# No decoder takes more bytes.
MOST_BYTES = 2**31 - 1


class FileSource(ImageSource):
    """A source of image files.

    Args:
        root: Folder that the file names are relative to.
        names: Names of the files, with "/" between folders.
        labels: Labels, as in ImageSource.
        classes: Names of the classes, as in ImageSource.
    """

    kind = "files"

    def __init__(
        self, root: Path, names: Sequence[str], *, labels: NDArray[np.int64] | None, classes: tuple[str, ...]
    ) -> None:
        super().__init__(names, labels, classes)
        self.root = absolute(root)

    def place(self, index: int) -> str:
        """Return the path of a file."""
        return os.path.join(self.root, self.names[index])

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of a file, (n,) uint8."""
        return np.frombuffer(read_regular(self.place(index), MOST_BYTES), dtype=np.uint8)


def without_companions(names: Iterable[str]) -> NDArray[np.int64] | None:
    """Return the positions of the images without .npy files, or None if all are images.

    A .npy file is an image only if all are .npy files.

    Args:
        names: Names of files that have the suffix of an image.
    """
    is_other = np.array([not name.lower().endswith(ARRAY_SUFFIX) for name in names], dtype=bool)
    return None if is_other.all() or not is_other.any() else np.flatnonzero(is_other)


def is_image(name: str) -> bool:
    """Return whether a file is an image by its name: it is not hidden, and has the suffix of an image."""
    return name[:1] != "." and name.lower().endswith(IMAGE_SUFFIXES)
