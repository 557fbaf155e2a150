"""The source of images that a map-style torch Dataset returns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from dali_pipelines.sources.arrays import checked_labels
from dali_pipelines.sources.base import ImageSource
from dali_pipelines.sources.pil_modes import to_rgb

logger = logging.getLogger(__name__)

# Enough to tell data sets apart. A dataset may need milliseconds for each item.
_SAMPLED_ITEMS = 16
# Attributes with all labels of torchvision's datasets. The others only return the label with each image.
_LABELS = ("targets", "labels", "_labels")
_REMEDY = "return a PIL image or an array of (H, W) or (H, W, C) uint8, alone or as the first value of a tuple"


class MapDataset(Protocol):
    """A map-style dataset: it has a length, and returns an item for a position."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class DatasetSource(ImageSource):
    """A source of the images of a map-style dataset; see dataset_source.

    Args:
        dataset: Dataset of images, or of tuples that begin with an image.
        labels: Labels, (N,) int64, or None.
        classes: Names of the classes, which the labels are indices into.
        channels: Channels of the pixels.
    """

    kind = "pixels"

    def __init__(
        self, dataset: MapDataset, labels: NDArray[np.int64] | None, classes: tuple[str, ...], *, channels: int
    ) -> None:
        super().__init__([str(index) for index in range(len(dataset))], labels, classes)
        self._dataset = dataset
        self.channels = channels

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the pixels of an image, (H, W, C) uint8; gray as RGB."""
        pixels = _pixels(_image_of(self._dataset[index]))
        if pixels.shape[2] != self.channels:
            raise ValueError(f"the image has {pixels.shape[2]} channels, and the others have {self.channels}")
        return pixels

    def place(self, index: int) -> str:
        """Return the number of an item, for messages."""
        return f"item {index} of the {_kind(self._dataset)}"

    def _content_sample(self) -> bytes:
        step = max(1, len(self) // _SAMPLED_ITEMS)
        return b"".join(_content(self, index) for index in range(0, len(self), step))


def dataset_source(
    dataset: MapDataset, labels: ArrayLike | None = None, classes: Sequence[str] | None = None
) -> DatasetSource:
    """Open a map-style torch Dataset, such as one of torchvision or your own.

    An item is an image, or a tuple whose first value is an image. An image is a PIL image or an array of (H, W) or
    (H, W, C) uint8. The loader crops and augments it, so the dataset must not: the same position must always return the
    same pixels. Several threads read items at the same time.

    An item that raises an error is a bad image, like a damaged file. It is logged and replaced, up to max_bad_files.

    Args:
        dataset: Dataset with ``__len__`` and ``__getitem__``.
        labels: Labels, (N,) whole numbers. Default: the dataset's attribute ``targets`` or ``labels``. A dataset
            without them, whose items are tuples of an image and a whole number, is read once to collect the labels.
        classes: Names of the classes, which the labels are indices into. Default: the dataset's attribute ``classes``,
            else the labels that occur, sorted.

    Raises:
        ValueError: If it is not a map-style dataset of such images, its items change from one read to the next, or a
            label is not an index of a class.

    Examples:
        >>> source = dataset_source(torchvision.datasets.ImageFolder("data/demo/train"))
        >>> loader = TwoViewLoader(source, batch_size_per_rank=64)
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ValueError(f"{_kind(dataset)} is not a map-style dataset; it must have __len__ and __getitem__")
    if not len(dataset):
        raise ValueError(f"{_kind(dataset)} has no items; use a dataset with images")
    item = _first_good(dataset)
    if labels is None:
        labels = _labels_of(dataset)
    if labels is None and _label_in(item) is not None:
        labels = _collected_labels(dataset)
    if classes is None:
        named = getattr(_whole(dataset), "classes", None)
        classes = named if isinstance(named, (list, tuple)) and all(isinstance(name, str) for name in named) else None
    return DatasetSource(
        dataset, *checked_labels(labels, len(dataset), classes), channels=_pixels(_image_of(item)).shape[2]
    )


def _first_good(dataset: MapDataset) -> Any:
    """Return the first item whose image can be read.

    Raises:
        ValueError: If none of the first items has an image, or the image is another one when it is read again.
    """
    failure: Exception | None = None
    for index in range(min(len(dataset), _SAMPLED_ITEMS)):
        try:
            item = dataset[index]
            pixels, again = _pixels(_image_of(item)), _pixels(_image_of(dataset[index]))
        except Exception as error:  # datasets raise any kind of error
            failure = failure or error
            continue
        if not np.array_equal(pixels, again):
            raise ValueError(
                f"item {index} of the {_kind(dataset)} is another image each time; remove its random transform, because"
                " the loader computes the views"
            )
        return item
    raise ValueError(f"item 0 of the {_kind(dataset)}: {type(failure).__name__}: {failure}") from failure


def _image_of(item: Any) -> Any:
    return item[0] if isinstance(item, (tuple, list)) and item else item


def _pixels(image: Any) -> NDArray[np.uint8]:
    """Return the pixels of a PIL image or an array, (H, W, C) uint8; gray as RGB."""
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if not isinstance(image, np.ndarray):
        raise ValueError(f"the image is a {type(image).__name__}; {_REMEDY}")
    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"the image is an array of {image.shape} {image.dtype}; {_REMEDY}")
    # The pixels are copied, because torch warns of read-only memory.
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.array(pixels)


def _content(source: DatasetSource, index: int) -> bytes:
    try:
        pixels = source.read(index)
    except Exception:  # a bad image, which the loader names when it is its turn
        return b"bad"
    return repr(pixels.shape).encode() + pixels.tobytes()


def _labels_of(dataset: Any) -> Any:
    """Return the labels of all items from an attribute of the dataset, or None if it has none."""
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # torch.utils.data.Subset
        labels = _labels_of(dataset.dataset)
        return None if labels is None else np.asarray(labels)[np.asarray(dataset.indices)]
    found = (getattr(dataset, name, None) for name in _LABELS)
    return next((labels for labels in found if labels is not None and np.shape(labels) == (len(dataset),)), None)


def _collected_labels(dataset: MapDataset) -> list[int]:
    """Return the labels of all items, which are read for this."""
    logger.warning(
        "%s has no attribute targets, so that its %d items are read once for their labels", _kind(dataset), len(dataset)
    )
    labels = []
    for index in range(len(dataset)):
        label = _label_in(dataset[index])
        if label is None:
            raise ValueError(f"item {index} of the {_kind(dataset)} has no label; give labels=")
        labels.append(label)
    return labels


def _label_in(item: Any) -> int | None:
    """Return the label of an item, if it is a tuple of an image and a whole number."""
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        return None
    label = np.asarray(item[1])
    return int(label) if label.ndim == 0 and np.issubdtype(label.dtype, np.integer) else None


def _whole(dataset: Any) -> Any:
    """Return the dataset that a torch.utils.data.Subset is a part of."""
    is_subset = hasattr(dataset, "indices") and hasattr(dataset, "dataset")
    return _whole(dataset.dataset) if is_subset else dataset


def _kind(dataset: object) -> str:
    return type(dataset).__name__
