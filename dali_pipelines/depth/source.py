"""The source of images at full depth: it decodes all bits and channels, and maps a range of values to 0 to 255."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.depth.decoded import Decoded, Request, checked
from dali_pipelines.depth.for_dali import FORMATS, TYPES, Stored, stored_for_dali
from dali_pipelines.depth.readers import read_image
from dali_pipelines.depth.value_range import Pair, Resolved
from dali_pipelines.sources.base import ImageSource, WrappedSource


class Found(NamedTuple):
    """What a source of full depth has found in its sample.

    Args:
        format: Format of the first image, such as "TIFF".
        dtype: Type of the pixels. Those of DICOM are floats after the modality transform.
        bits: Number of bits of a stored value.
        channels: Number of channels that are used; gray has 1.
        least: Smallest value of the sample.
        most: Largest value of the sample.
        images: Number of images of the sample. A range that the user gives needs only the first one.
        constant_images: Number of these images in which every channel has only one value.
    """

    format: str
    dtype: np.dtype[Any]
    bits: int
    channels: int
    least: float
    most: float
    images: int
    constant_images: int


class FullDepthSource(WrappedSource):
    """The images of another source at full depth; see full_depth.

    Args:
        source: Source of the images.
        request: Channels and bounds.
        value_range: Values of each channel that become 0 and 255, or "window".
        found: What the sample of the images has.
    """

    def __init__(self, source: ImageSource, *, request: Request, value_range: Resolved, found: Found) -> None:
        super().__init__(source)
        self.kind, self.pixel_dtype = "pixels", np.dtype(np.float32)
        self.value_range = value_range
        self.found = found
        # Gray is read as RGB, like a gray file.
        self.channels = 3 if found.channels == 1 else found.channels
        self._request = request

    @property
    def stored(self) -> Stored | None:
        """What DALI decodes in a file of these images, or None if all of them are decoded by our readers."""
        found = self.found
        if self._source.kind in ("pixels", "raw") or self.value_range == "window":
            return None
        if found.format not in FORMATS or found.dtype not in TYPES:
            return None
        return Stored(found.dtype, self._request.channels or tuple(range(found.channels)))

    def read(self, index: int) -> NDArray[Any]:
        """Return the pixels of an image, (H, W, C) float32, from 0 to 255; gray as RGB."""
        return self._pixels(self._source.read(index))

    def read_for_dali(self, index: int) -> NDArray[Any]:
        """Return the bytes of a file whose values DALI decodes as `stored` says, (n,) uint8; else what `read` returns.

        Args:
            index: Position of the image, 0 to len(self) - 1.

        Raises:
            Exception: Whatever `read` raises.
        """
        content = self._source.read(index)
        return content if stored_for_dali(content, self._request) == self.stored else self._pixels(content)

    def _pixels(self, content: NDArray[Any]) -> NDArray[np.float32]:
        decoded = decoded_image(self._source, content, self._request)
        own = decoded.values.dtype, decoded.values.shape[2]
        if own != (self.found.dtype, self.found.channels):
            raise ValueError(
                f"the image has {own[1]} channel(s) of {own[0]}, and the first image has {self.found.channels} of"
                f" {self.found.dtype}; all images must have the same"
            )
        if self.value_range == "window":
            if decoded.window is None:
                raise ValueError("the image has no window, and value_range is window; use auto or [lo, hi]")
            pixels = levels(decoded, (decoded.window,) * own[1])
        else:
            pixels = levels(decoded, self.value_range)
        return np.repeat(pixels, 3, axis=2) if own[1] == 1 else pixels

    def _content_sample(self) -> bytes:
        return repr((self._source.fingerprint, self._request.channels, self.value_range)).encode()


def decoded_image(source: ImageSource, content: NDArray[Any], request: Request) -> Decoded:
    """Return the pixels of an image at full depth.

    Args:
        source: Source of the image.
        content: What the source has read: bytes of a file, or pixels.
        request: Channels and bounds.

    Raises:
        Exception: If the image is bad. The class is whatever the decoders raise.
    """
    if source.kind not in ("pixels", "raw"):
        return read_image(content, request)
    return checked(Decoded("array", request.selected(content), content.dtype.itemsize * 8))


def levels(decoded: Decoded, ranges: tuple[Pair, ...]) -> NDArray[np.float32]:
    """Map the range of each channel to 0 to 255. Values outside of it become 0 or 255.

    Args:
        decoded: Pixels of an image.
        ranges: Values of each channel that become 0 and 255.

    Shape:
        Output: (H, W, C) float32.
    """
    # float32 has every whole number of 16 bits, times 255.
    exact = np.float32 if decoded.values.dtype.itemsize <= 2 or decoded.values.dtype == np.float32 else np.float64
    # With one range for all channels, NumPy computes whole rows at a time.
    low, high = np.array(ranges if len(set(ranges)) > 1 else ranges[:1], dtype=exact).T
    if len(low) == 1:
        low, high = low[0], high[0]
    # The values may be planes of channels, and DALI takes only contiguous pixels.
    out = np.subtract(decoded.values, low, dtype=exact, order="C")
    if np.any(low != 0) or np.any(high != 255):
        out *= 255
        out /= high - low
    np.clip(out, 0, 255, out=out)
    if decoded.is_inverted:
        np.subtract(255, out, out=out)
    if decoded.missing is not None:
        out[np.broadcast_to(decoded.missing, out.shape)] = 0
    result: NDArray[np.float32] = out.astype(np.float32, copy=False)
    return result
