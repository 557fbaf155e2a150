"""What a reader returns: the pixels of an image as they are stored, and what its file says about them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.depth.value_range import Pair

# A file of this many values per px allowed is damaged, or not what its user expects.
_VALUES_PER_PIXEL = 4


class Request(NamedTuple):
    """What is asked of a reader.

    Args:
        channels: Numbers of the stored channels that are read, from 0, in this order. None: all except alpha.
        max_pixels: Largest height times width, in px; a larger image is not decoded.
    """

    channels: tuple[int, ...] | None
    max_pixels: int

    def check_size(self, height_px: int, width_px: int, channels: int = 1) -> None:
        """Raise if an image is too large to be decoded.

        Args:
            height_px: Height, in px.
            width_px: Width, in px.
            channels: Number of channels that are decoded.

        Raises:
            ValueError: If it has more than max_pixels pixels, or more than four times as many values.
        """
        if height_px < 1 or width_px < 1 or channels < 1:
            raise ValueError(f"{width_px} x {height_px} pixels of {channels} channels are no image")
        if height_px * width_px > self.max_pixels:
            raise ValueError(f"{width_px} x {height_px} pixels are more than max_pixels, {self.max_pixels}")
        if height_px * width_px * channels > _VALUES_PER_PIXEL * self.max_pixels:
            raise ValueError(
                f"{width_px} x {height_px} pixels of {channels} channels are more than {_VALUES_PER_PIXEL} times"
                f" max_pixels, {self.max_pixels}"
            )

    def selected(self, values: NDArray[Any], *, alpha: Collection[int] = ()) -> NDArray[Any]:
        """Return the requested channels of pixels.

        Args:
            values: Pixels with all stored channels, (H, W, C).
            alpha: Numbers of the channels that are alpha.

        Raises:
            ValueError: If a requested channel does not exist.
        """
        numbers = self.numbers(values.shape[2], alpha=alpha)
        return values if numbers == tuple(range(values.shape[2])) else values[..., list(numbers)]

    def numbers(self, stored: int, *, alpha: Collection[int] = ()) -> tuple[int, ...]:
        """Return the numbers of the requested channels, in their order.

        Args:
            stored: Number of stored channels.
            alpha: Numbers of the channels that are alpha.

        Raises:
            ValueError: If a requested channel does not exist.
        """
        if self.channels is None:
            return tuple(number for number in range(stored) if number not in alpha)
        if max(self.channels) >= stored:
            raise ValueError(
                f"channel {max(self.channels)} does not exist, because the image has {stored} channel(s); the first"
                " one is number 0"
            )
        return self.channels


class Decoded(NamedTuple):
    """The pixels of an image at full depth.

    Args:
        format: Name of the format.
        values: Pixels, (H, W, C), of the type that is stored. Those of DICOM are floats after the modality transform.
        bits: Number of bits of a stored value.
        bounds: Smallest and largest value that the file can hold, if its header says it.
        is_inverted: Whether the smallest value is white.
        missing: Which values are no measurement, (H, W, C) bool; they become 0. None: all are measurements.
        window: Values that DICOM's own window maps to 0 and 255.
        left_out: What the file has and is not read, such as "4 more pages"; empty if everything is read.
    """

    format: str
    values: NDArray[Any]
    bits: int
    bounds: Pair | None = None
    is_inverted: bool = False
    missing: NDArray[np.bool_] | None = None
    window: Pair | None = None
    left_out: str = ""


def checked(decoded: Decoded) -> Decoded:
    """Return a decoded image with the machine's byte order, if its values are numbers that can be used.

    Values of uint8 have the bounds 0 and 255, if no header says otherwise.

    Args:
        decoded: Decoded image.

    Raises:
        ValueError: If the values are of another type, or not finite where they are measurements.
    """
    values = decoded.values
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.dtype.kind not in "uif" or values.dtype.itemsize > 8:
        raise ValueError(
            f"pixels of type {values.dtype} are not read; save whole numbers of 8 to 64 bits, or floats of 16 to 64"
        )
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "f":
        is_finite = np.isfinite(values)
        if decoded.missing is not None:
            is_finite |= decoded.missing
        if not is_finite.all():
            raise ValueError(
                f"{values.size - np.count_nonzero(is_finite)} of {values.size} values are NaN or infinite; replace"
                " them, or declare NaN as the GeoTIFF's nodata value"
            )
    bounds = decoded.bounds or ((0.0, 255.0) if values.dtype == np.uint8 else None)
    return decoded._replace(values=values, bounds=bounds)
