"""The source of images that are an array of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dali_pipelines.sources.base import Content, ImageSource

# Enough to tell data sets apart. Hashing all images of a large array would take minutes.
_SAMPLED_IMAGES = 1000
# No image has as few rows as this, and hardly any has more channels.
_FEW_CHANNELS = 4
_MOST_CHANNELS = 16


class ArraySource(ImageSource):
    """A source of images that are an array of pixels; see array_source.

    Args:
        images: Pixels, (N, H, W, C), of uint8 or another type of numbers.
        labels: Labels, (N,) int64, or None.
        classes: Names of the classes, which the labels are indices into.
    """

    def __init__(self, images: NDArray[Any], labels: NDArray[np.int64] | None, classes: tuple[str, ...]) -> None:
        super().__init__([str(index) for index in range(len(images))], labels, classes)
        self.images = images
        self.kind = "pixels" if images.dtype == np.uint8 else "raw"
        self.pixel_dtype = images.dtype
        # One channel is gray. It is read as RGB, like a gray file.
        self.channels = 3 if images.shape[3] == 1 else images.shape[3]

    def read(self, index: int) -> Content:
        """Return the pixels of an image, (H, W, C); gray of uint8 as RGB."""
        # The pixels are copied, because torch warns of read-only memory, such as that of a mapped file.
        pixels = np.array(self.images[index])
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 and self.kind == "pixels" else pixels

    def place(self, index: int) -> str:
        """Return the number of an image, for messages."""
        return f"image {index} of the array"

    def _content_sample(self) -> bytes:
        sampled = self.images[:: max(1, len(self.images) // _SAMPLED_IMAGES)]
        return repr(self.images.shape).encode() + np.ascontiguousarray(sampled).tobytes()


def array_source(
    images: ArrayLike, labels: ArrayLike | None = None, classes: Sequence[str] | None = None
) -> ArraySource:
    """Open an array of images, such as torchvision's CIFAR10(...).data or a numpy.memmap.

    Pixels of other types than uint8 have no known range. Loaders need it, so wrap their source by full_depth.

    Args:
        images: Pixels, (N, H, W, C), or (N, H, W) for gray images; uint8, or other whole numbers or floats of up to 64
            bits.
        labels: Labels, (N,) whole numbers, or None.
        classes: Names of the classes, which the labels are indices into. Default: the labels that occur, sorted; then
            the labels may be any whole numbers.

    Raises:
        ValueError: If an array has another shape or type, or a label is not an index of a class.

    Examples:
        >>> data = torchvision.datasets.CIFAR10("data", download=True)
        >>> source = array_source(data.data, data.targets, data.classes)
    """
    pixels = np.asanyarray(images)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.dtype.kind not in "uif" or pixels.dtype.itemsize > 8 or not pixels.size:
        raise ValueError(
            f"images: shape {np.shape(images)} of {pixels.dtype} is not allowed; it must be (N, H, W, C) of uint8, or"
            " of other whole numbers or floats of up to 64 bits"
        )
    _check_channels_last(pixels.shape)
    return ArraySource(pixels, *checked_labels(labels, len(pixels), classes))


def check_range_known(source: ImageSource) -> None:
    """Raise if the range of the pixels is not known, so that they cannot be given to a loader.

    Args:
        source: Source of images.

    Raises:
        ValueError: If the pixels are of another type than uint8, and no range was chosen.
    """
    if source.kind == "raw":
        raise ValueError(
            f"source: pixels of {source.pixel_dtype} have no known range of values; use full_depth(source), which maps"
            " their range to 0 to 255"
        )


def checked_labels(
    labels: ArrayLike | None, n_images: int, classes: Sequence[str] | None
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Return labels as class numbers, (n_images,) int64, and the classes. Without labels: None and none.

    Args:
        labels: Labels, (n_images,) whole numbers, or None.
        n_images: Number of images.
        classes: Names of the classes, which the labels are indices into. None: the labels that occur, sorted.

    Raises:
        ValueError: If the labels have another shape or type, or one is not an index of a class.
    """
    if labels is None:
        return None, ()
    numbers = np.asarray(labels)
    if numbers.shape != (n_images,) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(
            f"labels: shape {numbers.shape} of {numbers.dtype} is not allowed; it must be ({n_images},) of integers"
        )
    if classes is None:
        present, numbers = np.unique(numbers, return_inverse=True)
        classes = [str(label) for label in present]
    elif not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise ValueError(f"labels: {numbers.min()} to {numbers.max()} must be indices of the {len(classes)} classes")
    return numbers.astype(np.int64), tuple(classes)


def _check_channels_last(shape: tuple[int, ...]) -> None:
    """Raise if the shape is almost surely (N, C, H, W): the images would have a few rows and many more channels."""
    _, first, second, third = shape
    if any(first <= most < min(second, third) for most in (_FEW_CHANNELS, _MOST_CHANNELS)):
        raise ValueError(
            f"images: shape {shape} has the channels first; it must be (N, H, W, C); use images.transpose(0, 2, 3, 1)"
        )
