"""Bytes of images of more than 8 bits, and their readers, for the tests of depth."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from dali_pipelines.depth.decoded import Decoded, Request
from dali_pipelines.depth.readers import read_image

MOST_PIXELS = 10_000
_RANDOM = np.random.default_rng(0)
# 12 bits in 16.
GRAY = _RANDOM.integers(0, 4096, (40, 28), dtype=np.uint16)
RGB = _RANDOM.integers(0, 4096, (40, 28, 3), dtype=np.uint16)
FIVE = _RANDOM.integers(0, 65536, (40, 28, 5), dtype=np.uint16)
PAGES = np.ascontiguousarray(np.moveaxis(FIVE, 2, 0))


def tiff(values: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def read(content: bytes, channels: Sequence[int] | None = None, max_pixels: int = MOST_PIXELS) -> Decoded:
    request = Request(None if channels is None else tuple(channels), max_pixels)
    return read_image(np.frombuffer(content, dtype=np.uint8), request)
