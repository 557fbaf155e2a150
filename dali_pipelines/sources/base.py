"""What every source of images is."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources.names import Names

NO_LABEL = -1

# What reading an image gives: a file of its own, whose bytes a pipeline may read by itself; bytes; pixels.
Kind = Literal["files", "encoded", "pixels"]


class ImageSource(ABC):
    """Images in a fixed order, with labels or without.

    Args:
        names: Of the images, as batches and messages name them.
        labels: (len(names),) int64, indices into classes; None is NO_LABEL throughout.
        classes: Names of the classes, sorted; empty where there are no labels.
    """

    kind: Kind
    # Of the pixels; whatever is decoded has three.
    channels = 3

    def __init__(self, names: Sequence[str], labels: NDArray[np.int64] | None, classes: tuple[str, ...]) -> None:
        self.names = names
        self.labels = np.full(len(names), NO_LABEL, dtype=np.int64) if labels is None else labels
        self.classes = classes
        assert len(self.labels) == len(names), "a label a name"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_labels(self) -> bool:
        return bool(self.classes)

    @abstractmethod
    def read(self, index: int) -> NDArray[np.uint8]:
        """The bytes of an encoded image, or its pixels (H, W, C) where kind is "pixels".

        Raises:
            OSError: If it cannot be read.
        """

    @abstractmethod
    def place(self, index: int) -> str:
        """Where an image is, for a person who looks for it."""

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any name, label or their order, and not with the place of the data."""
        names = self.names if isinstance(self.names, Names) else Names.of(self.names)
        digest = hashlib.sha256(names.block.data)
        digest.update(names.ends.data)
        digest.update(np.ascontiguousarray(self.labels).data)
        digest.update(self._content_sample())
        return digest.hexdigest()[:16]

    def _content_sample(self) -> bytes:
        """What tells sources of equal names and labels apart."""
        return b""


class Subset(ImageSource):
    """Some of the images of a source.

    Args:
        source: The whole.
        indices: Of the images, in the order they shall have.
    """

    def __init__(self, source: ImageSource, indices: NDArray[np.int64]) -> None:
        super().__init__([source.names[index] for index in indices], source.labels[indices], source.classes)
        self.kind = source.kind
        self.channels = source.channels
        self._source = source
        self._indices = indices

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._source.read(int(self._indices[index]))

    def place(self, index: int) -> str:
        return self._source.place(int(self._indices[index]))

    def _content_sample(self) -> bytes:
        return self._source.fingerprint.encode()


class Relabelled(ImageSource):
    """The images of a source with the class numbers of another, such as a training set's for its validation set.

    Args:
        source: The images, with labels.
        classes: Names of the classes in their new order; they may be more than those of the source.

    Raises:
        ValueError: If the source has a class that is not among them.
    """

    def __init__(self, source: ImageSource, classes: tuple[str, ...]) -> None:
        number_of = {name: number for number, name in enumerate(classes)}
        unknown = [name for name in source.classes if name not in number_of]
        if unknown:
            more = f" and {len(unknown) - 5} others" if len(unknown) > 5 else ""
            raise ValueError(f"unknown classes: {', '.join(map(_printable, unknown[:5]))}{more}")
        new = np.array([number_of[name] for name in source.classes], dtype=np.int64)
        super().__init__(source.names, new[source.labels], classes)
        self.kind = source.kind
        self.channels = source.channels
        self._source = source

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._source.read(index)

    def place(self, index: int) -> str:
        return self._source.place(index)

    def _content_sample(self) -> bytes:
        return self._source._content_sample()


def _printable(name: str) -> str:
    """A class's name, with quotes and escapes where one could not read it; names come from files too."""
    return (name if name.isprintable() and name == name.strip() else repr(name))[:100]
