"""Convert images in any of PIL's modes to 8-bit RGB, for both backends, `scan`, `preview` and BarlowTwinsTransform."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Largest value of a 12-bit image. Cameras and scanners often store 12 bits in 16-bit files.
_TWELVE_BITS = 2**12 - 1
# The TIFF tag for the kind of samples: unsigned (1), signed (2) or floating point (3).
_SAMPLE_FORMAT = 339
_BITS_PER_SAMPLE = 258
_UNKNOWN_RANGE = "signed or 32-bit whole numbers have no known range; save the image with 8 bits, or unsigned 16 bits"


def as_ppm(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the bytes of a PPM file with these pixels: a header and the pixels as they are.

    Args:
        pixels: Pixels, (H, W, 3) uint8.
    """
    header = f"P6 {pixels.shape[1]} {pixels.shape[0]} 255\n".encode()
    return np.concatenate([np.frombuffer(header, dtype=np.uint8), pixels.ravel()])


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return the RGB pixels of an image in any of PIL's modes. Alpha is dropped; EXIF orientation is ignored.

    Gray of more than 8 bits needs a known range. That range becomes 0 to 255:

    - unsigned 16 bits: 0 to 4095 (12 bits) if no value is above 4095, else 0 to 65535. With the wider range, a 12-bit
      image would keep only 16 levels of gray.
    - PNM: 0 to its maxval.
    - floating point: 0 to 1.

    Args:
        image: Open image.

    Raises:
        ValueError: If the image has values of an unknown range, or PIL cannot convert it to RGB.

    Shape:
        Output: (H, W, 3) uint8.
    """
    tags = getattr(image, "tag_v2", {})
    if 2 in tags.get(_SAMPLE_FORMAT, ()):
        raise ValueError(_UNKNOWN_RANGE)
    if image.mode != "F" and max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8 and not _is_of_16_bits(image):
        raise ValueError(
            "PIL reads these TIFF samples of more than 8 bits as if they had 8; save the image with 8 bits"
        )
    if image.mode == "RGB":
        _check_depth_kept(image)
        return np.array(image)
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        return _gray((values >> (4 if values.max(initial=0) <= _TWELVE_BITS else 8)).astype(np.uint8))
    if image.mode == "I":
        if image.format != "PPM":
            raise ValueError(_UNKNOWN_RANGE)
        # PIL has scaled maxval to 65535.
        return _gray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "F":
        return _gray(_from_unit_interval(np.asarray(image)))
    # PIL converts La in two steps only.
    return np.array((image.convert("LA") if image.mode == "La" else image).convert("RGB"))


def _from_unit_interval(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = values.min(initial=1), values.max(initial=0)
    if not (low >= 0 and high <= 1):  # also NaN
        raise ValueError(
            f"floating-point values from {low:g} to {high:g} have no known range; scale them to 0 to 1, or save the"
            " image with 8 bits"
        )
    return (values * 255 + 0.5).astype(np.uint8)


def _check_depth_kept(image: Image.Image) -> None:
    """Raise if the image has 12-bit colors. PIL keeps the upper 8 of 16 bits, which leaves them only 16 levels."""
    of_16_bits = _is_of_16_bits(image)
    image.load()  # forgets the tiles
    if of_16_bits and np.asarray(image).max(initial=0) <= _TWELVE_BITS >> 8:
        raise ValueError(
            f"16-bit colors without a value above {_TWELVE_BITS} would keep 16 levels; save the image with 8 bits"
        )


def _is_of_16_bits(image: Image.Image) -> bool:
    """Return whether an image that is not loaded yet has 16-bit samples, and PIL reads them as such."""
    in_tiles = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    return in_tiles or image.mode.startswith("I")


def _gray(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(values[..., None], 3, axis=2)
