"""The source of the images of several sources, one after the other."""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import overload

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.orders import MOST_WEIGHT
from dali_pipelines.sources.base import NO_LABEL, Content, ImageSource, Kind, Upcoming, WrappedSource
from dali_pipelines.sources.labels import numbered
from dali_pipelines.sources.pil_modes import as_ppm

logger = logging.getLogger(__name__)


class SeveralSources(ImageSource):
    """The images of several sources, one source after the other; see several_sources.

    Args:
        sources: Sources of the images, at least one, whose pixels have the same number of channels and the same type.
        weights: How often an epoch sees each image of each source, above 0, one for each source.
    """

    def __init__(self, sources: Sequence[ImageSource], weights: Sequence[float]) -> None:
        self.kind, self.channels = _kind_of(sources), sources[0].channels
        self.pixel_dtype = sources[0].pixel_dtype
        labels, classes = _labels_of(sources)
        super().__init__(_NumberedNames([source.names for source in sources]), labels, classes)
        self.reads_ahead = max(source.reads_ahead for source in sources)
        self._sources = tuple(sources)
        self._weights = tuple(weights)
        self._begins = [0, *accumulate(len(source) for source in sources[:-1])]
        self.groups = self._all_groups()
        # A window has about as many images of each source as the source's share of all images.
        kept = [each.kept_images * len(self) // len(each) for each in sources if each.kept_images is not None]
        self.kept_images = min(kept, default=None)

    @property
    def parts(self) -> tuple[tuple[int, float], ...]:
        of_sources = zip(self._sources, self._weights)
        return tuple((size, own * weight) for source, weight in of_sources for size, own in source.parts)

    def read(self, index: int) -> Content:
        """Return the bytes or pixels of an image. If other sources have encoded images, pixels become a PPM file."""
        source, own = self._found(index)
        content = source.read(own)
        return as_ppm(content) if source.kind == "pixels" != self.kind else content

    def place(self, index: int) -> str:
        """Return where an image is stored, as its source says."""
        source, own = self._found(index)
        return source.place(own)

    def announce(self, upcoming: Upcoming) -> None:
        """Tell each source about its own images. Uses stay counted over the images of all sources."""
        mine_of, everyone_of = self._number_of(upcoming.mine), self._number_of(upcoming.everyone)
        for number, (source, begin) in enumerate(zip(self._sources, self._begins)):
            is_mine, is_its = mine_of == number, everyone_of == number
            if source.reads_ahead and (is_mine.any() or is_its.any()):
                source.announce(
                    Upcoming(
                        mine=upcoming.mine[is_mine] - begin,
                        everyone=upcoming.everyone[is_its] - begin,
                        first_use=upcoming.first_use + int(is_its.argmax()),
                        next_use=upcoming.next_use[is_its],
                    )
                )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the sources' fingerprints, their order, and all labels. It does not depend on the weights."""
        digest = hashlib.sha256(" ".join(source.fingerprint for source in self._sources).encode())
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()[:16]

    def _content_sample(self) -> bytes:
        return " ".join(source.fingerprint for source in self._sources).encode()

    def _found(self, index: int) -> tuple[ImageSource, int]:
        """Return the source of an image, and its position in that source."""
        number = bisect_right(self._begins, index) - 1
        return self._sources[number], index - self._begins[number]

    def _number_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._begins, positions, side="right") - 1

    def _all_groups(self) -> NDArray[np.int64] | None:
        if all(source.groups is None for source in self._sources):
            return None
        # Images that are not stored together are groups of one, so that they are spread over the whole epoch.
        each = (np.arange(len(source)) if source.groups is None else source.groups for source in self._sources)
        return np.concatenate([begin + groups for begin, groups in zip(self._begins, each)])


def several_sources(sources: Sequence[ImageSource], weights: Sequence[float] | None = None) -> ImageSource:
    """Open the images of several sources as one source. Its images are those of each source, in the given order.

    - Names: the name of an image begins with the number of its source: 0/NAME for the first source.
    - Labels: classes are matched by name. If only some of the sources have labels, there are none.
    - Pixels and encoded images can be mixed if the pixels have three channels of 8 bits.

    Args:
        sources: Sources of the images, at least one. One source without a weight is returned as it is.
        weights: How often an epoch sees each image of each source, above 0 to 1000, one for each source. With a weight
            that is not a whole number it is an average: 0.5 is every second epoch. Default: once.

    Raises:
        ValueError: If there is no source, a weight is out of range, or the sources have other numbers of channels or
            other types of pixels.

    Examples:
        >>> source = several_sources([open_source("photos"), open_source("shards/*.tar")], weights=[1, 2.5])
        >>> loader = TwoViewLoader(source, batch_size_per_rank=64)
    """
    if not sources:
        raise ValueError("sources: an empty list is not allowed; give at least one source")
    weights = [1.0] * len(sources) if weights is None else [float(weight) for weight in weights]
    if len(sources) == 1 and weights == [1.0]:
        return sources[0]
    _check_weights(sources, weights)
    _check_pixels(sources)
    return SeveralSources(sources, weights)


def each_once(source: ImageSource) -> ImageSource:
    """Return a source whose epoch sees every image once: the source itself, or one without its weights.

    Args:
        source: Source of the images.
    """
    return source if all(weight == 1.0 for _, weight in source.parts) else _EachOnce(source)


class _EachOnce(WrappedSource):
    """The images of a source, without its weights."""

    @property
    def parts(self) -> tuple[tuple[int, float], ...]:
        return ((len(self), 1.0),)

    @cached_property
    def fingerprint(self) -> str:
        return self._source.fingerprint


class _NumberedNames(Sequence[str]):
    """The names of several sources. With more than one, each name begins with the number of its source."""

    def __init__(self, names: Sequence[Sequence[str]]) -> None:
        self._names = names
        self._begins = [0, *accumulate(map(len, names))]

    def __len__(self) -> int:
        return self._begins[-1]

    def __iter__(self) -> Iterator[str]:
        for number, names in enumerate(self._names):
            yield from (self._numbered(number, name) for name in names)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        index = range(len(self))[index]
        number = bisect_right(self._begins, index) - 1
        return self._numbered(number, self._names[number][index - self._begins[number]])

    def _numbered(self, number: int, name: str) -> str:
        return name if len(self._names) == 1 else f"{number}/{name}"


def _check_weights(sources: Sequence[ImageSource], weights: Sequence[float]) -> None:
    if len(weights) != len(sources):
        raise ValueError(
            f"weights: {len(weights)} weights are not allowed for {len(sources)} sources; give one weight for each"
        )
    for number, (source, weight) in enumerate(zip(sources, weights)):
        if not 0 < weight <= MOST_WEIGHT:
            raise ValueError(f"weights: {weight:g} is not allowed; a weight must be above 0 and at most {MOST_WEIGHT}")
        if not any(round(size * own * weight) for size, own in source.parts):
            raise ValueError(
                f"weights: {weight:g} is not allowed for {_named(source, number)}: an epoch would see none of its"
                f" {len(source)} images; give at least {1 / len(source):.3g}"
            )


def _check_pixels(sources: Sequence[ImageSource]) -> None:
    first = sources[0]
    for number, source in enumerate(sources):
        if source.channels != first.channels:
            raise ValueError(
                f"sources: the images of {_named(first, 0)} have {first.channels} channels, and those of"
                f" {_named(source, number)} have {source.channels}; use sources with the same number of channels"
            )
        if source.pixel_dtype != first.pixel_dtype or (source.kind == "raw") != (first.kind == "raw"):
            raise ValueError(
                f"sources: the pixels of {_named(first, 0)} are {first.pixel_dtype}, and those of"
                f" {_named(source, number)} are {source.pixel_dtype}; read all sources at the same depth"
            )


def _kind_of(sources: Sequence[ImageSource]) -> Kind:
    kinds = {source.kind for source in sources}
    return sources[0].kind if len(kinds) == 1 else "encoded"


def _labels_of(sources: Sequence[ImageSource]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Return the labels of all images as numbers of common classes, and these. None without labels."""
    without = [_named(source, number) for number, source in enumerate(sources) if not source.has_labels]
    if without:
        if len(without) < len(sources):
            logger.warning(
                "the labels of %d of %d sources are not used, because %s has no labels; give all sources labels to use"
                " them", len(sources) - len(without), len(sources), " and ".join(without),
            )  # fmt: skip
        return None, ()
    classes = sources[0].classes
    if any(source.classes != classes for source in sources):
        _, classes = numbered([name for source in sources for name in source.classes])
    number_of = {name: number for number, name in enumerate(classes)}
    new = [np.array([number_of[name] for name in source.classes], dtype=np.int64) for source in sources]
    labels = [np.where(each.labels == NO_LABEL, NO_LABEL, of[each.labels]) for each, of in zip(sources, new)]
    return np.concatenate(labels), classes


def _named(source: ImageSource, number: int) -> str:
    return f"source {number} (its first image is {source.place(0)})"
