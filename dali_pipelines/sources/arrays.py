"""Images that are in memory, as pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dali_pipelines.sources.base import ImageSource

# Enough to tell data sets apart; hashing all of a large one would take minutes.
_SAMPLED_IMAGES = 1000
# No image has so few rows, and hardly one more channels.
_FEW_CHANNELS = 4
_MOST_CHANNELS = 16


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
    _check_channels_last(pixels.shape)
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


def _check_channels_last(shape: tuple[int, ...]) -> None:
    """Refuse what is almost surely (N, C, H, W): images of a few rows, each pixel with more channels than those."""
    _, first, second, third = shape
    if any(first <= most < min(second, third) for most in (_FEW_CHANNELS, _MOST_CHANNELS)):
        raise ValueError(
            f"images: shape {shape} has the channels first, and must be (N, H, W, C); give images.transpose(0, 2, 3, 1)"
        )
