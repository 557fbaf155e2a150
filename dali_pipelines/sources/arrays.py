"""Images that are in memory, as pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dali_pipelines.sources.base import ImageSource

# Enough to tell data sets apart; hashing all of a large one would take minutes.
_SAMPLED_IMAGES = 1000


class ArraySource(ImageSource):
    """Images as an array; see array_source."""

    kind = "pixels"

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, classes: tuple[str, ...]) -> None:
        super().__init__([str(index) for index in range(len(images))], labels, classes)
        self._images = images
        # One channel is gray, and read as RGB like a gray file.
        self.channels = 3 if images.shape[3] == 1 else images.shape[3]

    def read(self, index: int) -> NDArray[np.uint8]:
        """The pixels."""
        # A copy, because torch warns of memory that cannot be written, as that of a mapped file.
        pixels = np.array(self._images[index])
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels

    def place(self, index: int) -> str:
        """Its number."""
        return f"image {index} of the array"

    def _content_sample(self) -> bytes:
        sampled = self._images[:: max(1, len(self._images) // _SAMPLED_IMAGES)]
        return repr(self._images.shape).encode() + np.ascontiguousarray(sampled).tobytes()


def array_source(
    images: ArrayLike, labels: ArrayLike | None = None, classes: Sequence[str] | None = None
) -> ArraySource:
    """Images in memory, such as torchvision's CIFAR10(...).data, or a numpy.memmap.

    Args:
        images: (N, H, W, C) or, gray, (N, H, W), uint8.
        labels: (N,) whole numbers, or None.
        classes: Names of the classes, which the labels are indices into. Default: the labels that occur, sorted.

    Raises:
        ValueError: If an array has another shape or type, or a label is no index of a class.
    """
    pixels = np.asanyarray(images)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(
            f"images: shape {np.shape(images)} of {pixels.dtype} is not allowed; it must be (N, H, W, C) of uint8"
        )
    if labels is None:
        return ArraySource(pixels, None, ())
    numbers = np.asarray(labels)
    if numbers.shape != (len(pixels),) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(
            f"labels: shape {numbers.shape} of {numbers.dtype} is not allowed; it must be ({len(pixels)},) of integers"
        )
    if classes is None:
        present, numbers = np.unique(numbers, return_inverse=True)
        classes = [str(label) for label in present]
    elif not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise ValueError(f"labels: {numbers.min()} to {numbers.max()} must be indices of the {len(classes)} classes")
    return ArraySource(pixels, numbers.astype(np.int64), tuple(classes))


def array_file(path: str | Path) -> ArraySource:
    """A .npz file with the arrays images and, where there are any, labels; or a .npy file of images, read as needed.

    Raises:
        ValueError: If the file has other arrays, or they do not fit array_source.
    """
    path = Path(path).expanduser()
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a file of arrays: {error}; write it by numpy.savez(images=...)") from error
    try:
        if isinstance(loaded, np.ndarray):
            return array_source(loaded)
        with loaded:
            if "images" not in loaded:
                raise ValueError(f"it has {', '.join(loaded) or 'nothing'}, and must have images")
            return array_source(loaded["images"], loaded.get("labels"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
