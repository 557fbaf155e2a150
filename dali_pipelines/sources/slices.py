"""The source of images that are stored uncompressed inside of larger files: each is a range of bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.regular_files import open_regular
from dali_pipelines.sources.base import ImageSource


class SliceSource(ImageSource):
    """A source of images in larger files. Each is read from its position, so images can be shuffled over all files.

    Args:
        files: Paths of the files.
        names: Names of the images.
        labels: Labels, as in ImageSource.
        classes: Names of the classes, as in ImageSource.
        file_of: Number of each image's file, (n,) int64.
        offsets: Position of each image's bytes in its file, (n,) int64.
        sizes: Number of each image's bytes, (n,) int64; -1 if the image is null.
    """

    kind = "encoded"

    def __init__(
        self,
        files: Sequence[str],
        *,
        names: Sequence[str],
        labels: NDArray[np.int64] | None,
        classes: tuple[str, ...],
        file_of: NDArray[np.int64],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> None:
        super().__init__(names, labels, classes)
        self._files = files
        self._file_of = file_of
        self._offsets = offsets
        self._sizes = sizes

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of an image, (n,) uint8."""
        size = int(self._sizes[index])
        if size < 0:
            raise ValueError("the image is null")
        with open_regular(self.file(index)) as file:
            content = os.pread(file.fileno(), size, int(self._offsets[index]))
        if len(content) < size:
            raise OSError(f"the file ends after {len(content)} of the image's {size} bytes")
        return np.frombuffer(content, dtype=np.uint8)

    def file(self, index: int) -> str:
        """Return the path of the file that has an image.

        Args:
            index: Position of the image, 0 to len(self) - 1.
        """
        return self._files[int(self._file_of[index])]

    def _content_sample(self) -> bytes:
        return self._sizes.tobytes()
