"""Turn an image of a source into the file that a shard stores."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dali_pipelines.decoding.read_pixels import decode
from dali_pipelines.depth.decoded import Request
from dali_pipelines.depth.readers import is_eight_bits, read_image, suffix_of
from dali_pipelines.errors import StorageError
from dali_pipelines.sources import ImageSource
from dali_pipelines.views.params import MOST_PIXELS

# Suffixes by PIL's names of the formats that the loader decodes. An MPO file is a JPEG file with further images.
_SUFFIXES = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "BMP": "bmp",
    "DIB": "dib",
    "TIFF": "tif",
    "WEBP": "webp",
    "JPEG2000": "jp2",
    "PPM": "pnm",
}
# Colors at full resolution: the size is reduced once, and the file is read in every epoch.
_NO_SUBSAMPLING = 0


@dataclass(frozen=True)
class Conversion:
    """What `pack` does with each image.

    Args:
        short_side_px: Length in px to which larger shorter sides are reduced; None copies all files unchanged.
        quality: JPEG quality of the images that are reduced, 1 to 100.
        decodes: Whether images that are copied are decoded once, to find the damaged ones.
        max_pixels: Largest height times width of an image, in px; a larger image is bad.
    """

    short_side_px: int | None = None
    quality: int = 95
    decodes: bool = True
    max_pixels: int = MOST_PIXELS


class PackedImage(NamedTuple):
    """The file that a shard stores for an image.

    Args:
        content: Bytes of the file.
        suffix: Suffix of the file's name, by its content.
    """

    content: bytes
    suffix: str


def packed_image(source: ImageSource, index: int, conversion: Conversion) -> PackedImage | str:
    """Return the file that a shard stores for an image, or the reason why the image is left out.

    Args:
        source: Source of the image.
        index: Position of the image in the source.
        conversion: What is done with the image.

    Raises:
        StorageError: If the storage does not answer.
    """
    try:
        content = source.read(index)
        if source.kind == "pixels":
            return _of_pixels(content, conversion)
        return _of_file(content, conversion)
    except StorageError:
        raise
    except Exception as error:  # PIL raises whatever its decoders raise
        return f"{type(error).__name__}: {error}"


def _of_file(content: NDArray[np.uint8], conversion: Conversion) -> PackedImage:
    if not is_eight_bits(content, conversion.max_pixels):
        return _of_deep_file(content, conversion)
    suffix = _suffix_of(content)
    if conversion.decodes or conversion.short_side_px is not None:
        pixels = decode(content, conversion.max_pixels)
        if (size := _reduced_size(pixels, conversion)) is not None:
            return _reduced(pixels, size, conversion)
    return PackedImage(content.tobytes(), suffix)


def _of_deep_file(content: NDArray[np.uint8], conversion: Conversion) -> PackedImage:
    """Return the file of an image of more than 8 bits or other channels than RGB, which is never converted."""
    if conversion.short_side_px is not None:
        raise ValueError("images of more than 8 bits, or of other channels than RGB, cannot be reduced")
    if conversion.decodes:
        read_image(content, Request(None, conversion.max_pixels))
    return PackedImage(content.tobytes(), suffix_of(content))


def _of_pixels(pixels: NDArray[np.uint8], conversion: Conversion) -> PackedImage:
    if (size := _reduced_size(pixels, conversion)) is not None:
        return _reduced(pixels, size, conversion)
    packed = PackedImage(_encoded(Image.fromarray(pixels), "PNG"), "png")
    if not np.array_equal(_decoded(packed), pixels):
        raise ValueError("the PNG file of these pixels has other pixels; check the memory of this machine")
    return packed


def _reduced_size(pixels: NDArray[np.uint8], conversion: Conversion) -> tuple[int, int] | None:
    """Return width and height after the reduction, as torchvision's Resize computes them; None if it has none."""
    height, width = pixels.shape[:2]
    short = conversion.short_side_px
    if short is None or min(height, width) <= short:
        return None
    return (short, short * height // width) if width <= height else (short * width // height, short)


def _reduced(pixels: NDArray[np.uint8], size: tuple[int, int], conversion: Conversion) -> PackedImage:
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    content = _encoded(image, "JPEG", quality=conversion.quality, subsampling=_NO_SUBSAMPLING)
    packed = PackedImage(content, "jpg")
    _decoded(packed)
    return packed


def _encoded(image: Image.Image, format_name: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def _decoded(packed: PackedImage) -> NDArray[np.uint8]:
    return decode(np.frombuffer(packed.content, dtype=np.uint8), MOST_PIXELS)


def _suffix_of(content: NDArray[np.uint8]) -> str:
    if content[:3].tobytes() == b"\xff\xd8\xff":
        return "jpg"
    if not content.size:
        raise ValueError("the file is empty")
    try:
        with Image.open(io.BytesIO(content.data)) as image:
            name = image.format or ""
    except UnidentifiedImageError as error:
        raise ValueError("the file is not an image of a known format") from error
    if name not in _SUFFIXES:
        raise ValueError(f"{name} is not supported; convert the image to JPEG or PNG")
    return _SUFFIXES[name]
