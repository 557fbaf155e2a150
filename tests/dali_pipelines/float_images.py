"""A source of float32 images, as readers of more than 8 bits make them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.sources import ImageSource


class FloatImages(ImageSource):
    """Images of float32 levels, each of its own size, in one class.

    Args:
        images: Pixels, each (H, W, C) float32 in [0, 255].
        broken: Numbers of the images that cannot be read.
    """

    kind = "pixels"
    pixel_dtype = np.dtype(np.float32)

    def __init__(self, images: Sequence[NDArray[np.float32]], broken: Sequence[int] = ()) -> None:
        super().__init__([str(index) for index in range(len(images))], np.zeros(len(images), np.int64), ("all",))
        self.channels = images[0].shape[2]
        self._images = images
        self._broken = broken

    def read(self, index: int) -> NDArray[np.float32]:
        if index in self._broken:
            raise ValueError("the image has NaN pixels")
        return self._images[index].copy()

    def place(self, index: int) -> str:
        return f"float image {index}"


def scenes(n: int, channels: int, *, seed: int = 0, least_px: int = 40) -> list[NDArray[np.float32]]:
    """Return smooth images with a hard edge and a little noise, of n different sizes, over the whole range."""
    rng = np.random.default_rng(seed)
    return [_scene(rng, least_px + 7 * number, least_px + 50 - 5 * number, channels) for number in range(n)]


def _scene(rng: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.float32]:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + rng.uniform(0, 6)) for _ in range(channels)]
    image = 127.5 + 90 * np.stack(waves, axis=2) + rng.normal(0, 5, (height, width, channels))
    image[height // 3 : height // 2, width // 4 : width // 2] += rng.uniform(-120, 120, channels)
    clipped: NDArray[np.float32] = image.clip(0, 255).astype(np.float32)
    return clipped
