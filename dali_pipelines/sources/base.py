"""The interface of all sources of images."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.orders import images_per_epoch
from dali_pipelines.sources.names import Names

NO_LABEL = -1

# The form of an image: "files", a file of its own, which a pipeline may open itself; "encoded", the bytes of a file;
# "pixels"; or "raw", pixels whose range of values is not known (see full_depth).
Kind = Literal["files", "encoded", "pixels", "raw"]

# What `read` returns: bytes of a file; or pixels, whose type is the source's pixel_dtype.
Content = NDArray[Any]


class Upcoming(NamedTuple):
    """The images of a batch that will be read soon. A source can fetch them, and choose what it keeps for later.

    Uses are counted over all epochs, over all ranks together. If the source is one of several, the uses of the others
    are counted too. So the next announcement may begin after first_use + m.

    Args:
        mine: Positions of the images that this rank will read, in order, (n,) int64.
        everyone: Positions of the images that all ranks will read in the same step, (m,) int64.
        first_use: Number of the use of the first of them.
        next_use: When each image of `everyone` is used again after this batch, (m,) int64.
    """

    mine: NDArray[np.int64]
    everyone: NDArray[np.int64]
    first_use: int
    next_use: NDArray[np.int64]


class ImageSource(ABC):
    """Images in a fixed order, with or without labels. Subclasses set `kind`, `read` and `place`.

    `kind` is "encoded" if `read` returns the bytes of a JPEG, PNG or other file, or "pixels" if it returns pixels.

    Args:
        names: Names of the images, for batches and messages.
        labels: Labels, (len(names),) int64, indices into classes. None sets every label to -1.
        classes: Names of the classes, in the order of their numbers; empty without labels.

    Examples:
        >>> class Noise(ImageSource):
        ...     kind = "pixels"
        ...
        ...     def read(self, index):
        ...         return np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        ...
        ...     def place(self, index):
        ...         return f"noise image {index}"
        >>> loader = TwoViewLoader(Noise([f"{i}" for i in range(256)], None, ()), batch_size_per_rank=64)
    """

    kind: Kind
    # Number of channels of the pixels. Decoded images always have three.
    channels = 3
    # Type of the pixels: uint8; float32 if kind is "pixels" and images have more than 8 bits; any if kind is "raw".
    pixel_dtype: np.dtype[Any] = np.dtype(np.uint8)
    # Number of images that `announce` should be told ahead of their use. 0: the images need no fetching.
    reads_ahead = 0
    # Position of the first image of each group that is stored and read together, (g,) int64; None without groups.
    groups: NDArray[np.int64] | None = None
    # Largest shuffle_window whose groups all stay decoded in memory; None if there is no limit.
    kept_images: int | None = None

    def __init__(self, names: Sequence[str], labels: NDArray[np.int64] | None, classes: tuple[str, ...]) -> None:
        self.names = names
        self.labels = np.full(len(names), NO_LABEL, dtype=np.int64) if labels is None else labels
        self.classes = classes
        assert len(self.labels) == len(names), "one label per name"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def parts(self) -> tuple[tuple[int, float], ...]:
        """Number of images of each part of the source, and how often an epoch sees each of its images (see Order)."""
        return ((len(self), 1.0),)

    @property
    def epoch_length(self) -> int:
        """Number of images that an epoch of training sees. It differs from len(self) if parts have weights."""
        return images_per_epoch(self.parts)

    @property
    def has_labels(self) -> bool:
        return bool(self.classes)

    @property
    def views_in_float(self) -> bool:
        """Whether views are computed in float32. Those of RGB of 8 bits are computed in whole numbers, as by PIL."""
        return self.channels != 3 or self.pixel_dtype != np.uint8

    @abstractmethod
    def read(self, index: int) -> Content:
        """Return the bytes of an image, (n,) uint8, or its pixels, (H, W, C), if kind is "pixels".

        Pixels have the type pixel_dtype. Values of float32 are finite and in [0, 255], as those of uint8.

        Args:
            index: Position of the image, 0 to len(self) - 1.

        Raises:
            OSError: If the image cannot be read. It is a bad image.
            StorageError: If the storage does not answer. The image is not to blame.
        """

    def announce(self, upcoming: Upcoming) -> None:  # noqa: B027, a source of local images has nothing to do
        """Learn which images will be read soon. Batches are announced in their order, each once before it is read.

        A loader that starts again at another batch announces from there. The default does nothing.

        Args:
            upcoming: Images of the next batch that was not yet announced.
        """

    @abstractmethod
    def place(self, index: int) -> str:
        """Return where an image is stored, such as its path, for messages.

        Args:
            index: Position of the image, 0 to len(self) - 1.
        """

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the names, the labels and their order. It does not depend on where the data is stored."""
        names = self.names if isinstance(self.names, Names) else Names.of(self.names)
        digest = hashlib.sha256(names.block.data)
        digest.update(names.ends.data)
        digest.update(np.ascontiguousarray(self.labels).data)
        digest.update(self._content_sample())
        return digest.hexdigest()[:16]

    def _content_sample(self) -> bytes:
        """Return bytes that tell sources with equal names and labels apart."""
        return b""


class WrappedSource(ImageSource):
    """A source of the same images as another source, in the same order. Subclasses change what differs.

    Args:
        source: The other source.
        labels: Labels, as in ImageSource. Default: those of the other source.
        classes: Names of the classes. Default: those of the other source.
    """

    def __init__(
        self, source: ImageSource, labels: NDArray[np.int64] | None = None, classes: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(
            source.names, source.labels if labels is None else labels, source.classes if classes is None else classes
        )
        self.kind = source.kind
        self.channels, self.pixel_dtype = source.channels, source.pixel_dtype
        self.reads_ahead, self.groups, self.kept_images = source.reads_ahead, source.groups, source.kept_images
        self._source = source

    @property
    def parts(self) -> tuple[tuple[int, float], ...]:
        return self._source.parts

    def read(self, index: int) -> Content:
        return self._source.read(index)

    def announce(self, upcoming: Upcoming) -> None:
        self._source.announce(upcoming)

    def place(self, index: int) -> str:
        return self._source.place(index)

    def _content_sample(self) -> bytes:
        return self._source._content_sample()


class Subset(ImageSource):
    """A source of some of the images of another source.

    Args:
        source: Source of all images.
        indices: Positions of the images in the source, (n,) int64, in their new order.
    """

    def __init__(self, source: ImageSource, indices: NDArray[np.int64]) -> None:
        super().__init__([source.names[index] for index in indices], source.labels[indices], source.classes)
        self.kind = source.kind
        self.channels, self.pixel_dtype = source.channels, source.pixel_dtype
        self.reads_ahead = source.reads_ahead
        self._source = source
        self._indices = indices

    def read(self, index: int) -> Content:
        return self._source.read(int(self._indices[index]))

    def announce(self, upcoming: Upcoming) -> None:
        mine, everyone = self._indices[upcoming.mine], self._indices[upcoming.everyone]
        self._source.announce(upcoming._replace(mine=mine, everyone=everyone))

    def place(self, index: int) -> str:
        return self._source.place(int(self._indices[index]))

    def _content_sample(self) -> bytes:
        return self._source.fingerprint.encode()


class Relabeled(WrappedSource):
    """A source of the images of another source with other class numbers, such as those of its training set.

    Args:
        source: Source of the images, with labels.
        classes: Names of the classes in their new order. They may be more than those of the source.

    Raises:
        ValueError: If the source has a class that is not in classes.
    """

    def __init__(self, source: ImageSource, classes: tuple[str, ...]) -> None:
        number_of = {name: number for number, name in enumerate(classes)}
        unknown = [name for name in source.classes if name not in number_of]
        if unknown:
            more = f" and {len(unknown) - 5} others" if len(unknown) > 5 else ""
            raise ValueError(f"unknown classes: {', '.join(map(_printable, unknown[:5]))}{more}")
        new = np.array([number_of[name] for name in source.classes], dtype=np.int64)
        super().__init__(source, new[source.labels], classes)


def _printable(name: str) -> str:
    """Return a class's name for a message, with quotes and escapes if needed. Names also come from files."""
    return (name if name.isprintable() and name == name.strip() else repr(name))[:100]
