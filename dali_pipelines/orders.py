"""The order of the images of each epoch. This is arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Part of the seed of the order in which a part's images take turns, if an epoch does not see all of them equally often.
_TURNS = 0x7475726E
# Largest weight of a part. With more, the order of an epoch would need too much memory.
MOST_WEIGHT = 1000


class Order:
    """The order of the images of each epoch, a pure function of the seed and the epoch.

    An epoch is one random permutation. It has every image once, or as often as the weight of its part says. Of a part
    with n images and weight w, an epoch sees n w images, rounded to a whole number m. The images take turns, so in E
    epochs each of them is seen floor(E m / n) or ceil(E m / n) times. With a window, the images of a group
    stay close to each other: groups are in random order, and each window of consecutive images is shuffled.

    Args:
        parts: Number of images of each part of the source, and the weight of the part: how often an epoch sees each of
            its images on average, more than 0.
        seed: Seed of the orders, 0 or more; the same on every rank.
        groups: Position of the first image of each group, (g,) int64, ascending from 0. The images of a group are
            stored together. Needed with a window.
        window: Number of images that are shuffled together, 1 or more. None shuffles all images of the epoch.

    Raises:
        ValueError: If the seed is negative.
    """

    def __init__(
        self,
        parts: Sequence[tuple[int, float]],
        seed: int = 0,
        *,
        groups: NDArray[np.int64] | None = None,
        window: int | None = None,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed: {seed} is not allowed; it must be 0 or more")
        assert window is None or groups is not None, "windows are made of groups"
        self.seed = seed
        self._parts = tuple(parts)
        self._groups = groups
        self._window = window
        self._n_images = sum(size for size, _ in self._parts)
        # Two epochs, because a loader prefetches the first batches of the next epoch before it finishes this one.
        self._made_once = lru_cache(maxsize=2)(self._made)
        self._next_use_once = lru_cache(maxsize=1)(self._next_use)

    def __len__(self) -> int:
        """Return the number of images that an epoch sees."""
        return images_per_epoch(self._parts)

    @property
    def identity(self) -> dict[str, object]:
        """What the order depends on besides the number of images and the seed. It is empty for a plain permutation."""
        is_weighted = any(_seen(size, weight) != size for size, weight in self._parts)
        weights = {"weights": [weight for _, weight in self._parts]} if is_weighted else {}
        return weights | ({"window": self._window} if self._window else {})

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the positions of an epoch's images in the source, in order, (len(self),) int64. Do not change them.

        Args:
            epoch: Number of the epoch, 0 or more.
        """
        return self._made_once(epoch)

    def next_use(self, epoch: int) -> NDArray[np.int64]:
        """Return when each image of an epoch is used again, (len(self),) int64.

        Uses are counted over all epochs: the first one of epoch e is number e * len(self). An image that the next epoch
        does not use gets a number after that epoch.

        Args:
            epoch: Number of the epoch, 0 or more.
        """
        return self._next_use_once(epoch)

    def _next_use(self, epoch: int) -> NDArray[np.int64]:
        now, then = self.epoch(epoch), self.epoch(epoch + 1)
        count = len(self)
        first = np.full(self._n_images, (epoch + 2) * count, dtype=np.int64)
        # Assigned from the end, so that the first use stays.
        first[then[::-1]] = (epoch + 1) * count + np.arange(count, dtype=np.int64)[::-1]
        uses = first[now]
        if count > self._n_images or self.identity:
            by_image = np.argsort(now, kind="stable")
            is_same = now[by_image[:-1]] == now[by_image[1:]]
            uses[by_image[:-1][is_same]] = epoch * count + by_image[1:][is_same]
        return uses

    def _made(self, epoch: int) -> NDArray[np.int64]:
        images = self._images(epoch)
        random = np.random.default_rng((self.seed, epoch))
        if self._window is None:
            return random.permutation(images)
        assert self._groups is not None, "windows are made of groups"
        place = random.permutation(len(self._groups))
        group = np.searchsorted(self._groups, images, side="right") - 1
        images = images[np.argsort(place[group], kind="stable")]
        for begin in range(0, len(images), self._window):
            random.shuffle(images[begin : begin + self._window])
        return images

    def _images(self, epoch: int) -> NDArray[np.int64]:
        """Return the images that an epoch sees, each as often as it is seen."""
        chosen, first = [], 0
        for number, (size, weight) in enumerate(self._parts):
            seen = _seen(size, weight)
            if seen == size:
                part = np.arange(size, dtype=np.int64)
            else:
                # All images take turns in one fixed order, and an epoch begins where the one before has ended.
                turns = np.random.default_rng((self.seed, _TURNS, number)).permutation(size)
                part = turns[(epoch * seen + np.arange(seen, dtype=np.int64)) % size]
            chosen.append(first + part)
            first += size
        return np.concatenate(chosen)


def images_per_epoch(parts: Sequence[tuple[int, float]]) -> int:
    """Return the number of images that an epoch sees.

    Args:
        parts: Number of images of each part, and how often an epoch sees each of its images (see Order).
    """
    return sum(_seen(size, weight) for size, weight in parts)


def _seen(size: int, weight: float) -> int:
    return round(size * weight)
