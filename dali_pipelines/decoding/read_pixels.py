"""Decode images on the host, and find out why an image cannot be decoded."""

from __future__ import annotations

import io
import threading

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from dali_pipelines.errors import BadImageError, StorageError
from dali_pipelines.sources import ImageSource
from dali_pipelines.sources.base import Content
from dali_pipelines.sources.pil_modes import as_ppm, to_rgb

# PIL's names of the formats that DALI decodes too. PIL also reads GIF and AVIF, which DALI does not. MPO is JPEG.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "TIFF", "WEBP", "JPEG2000", "PPM")


class _WholeImagesOnly:
    """A context in which PIL refuses truncated files, whatever another package has set.

    LightlyTrain sets PIL to accept them, for the whole process. Then the bad files would depend on its import. The
    setting is global, so it is restored when the last thread leaves the context.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._asked = False

    def __enter__(self) -> None:
        with self._lock:
            if self._within == 0:
                self._asked, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if self._within == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._asked


whole_images_only = _WholeImagesOnly()


def read(source: ImageSource, index: int) -> Content:
    """Read the bytes or pixels of an image, contiguous in memory, and check that pixels are as the source says.

    Args:
        source: Source of the image.
        index: Position of the image in the source.

    Raises:
        ValueError: If pixels have another type or other channels.
        Exception: Whatever the source raises.
    """
    content = source.read(index)
    if source.kind == "pixels" and (content.dtype, content.shape[2:]) != (source.pixel_dtype, (source.channels,)):
        raise ValueError(
            f"its pixels are {content.shape} {content.dtype}, and must be (H, W, {source.channels})"
            f" {source.pixel_dtype}, as its source says"
        )
    # DALI takes no other strides, and torch no negative ones. A contiguous array is not copied.
    return np.ascontiguousarray(content)


def read_pixels(source: ImageSource, index: int, max_pixels: int) -> Tensor:
    """Read the pixels of an image, (H, W, C), of the source's type. Encoded images become RGB of uint8.

    EXIF orientation is ignored, as in PIL and torchvision.

    Args:
        source: Source of the image.
        index: Position of the image in the source.
        max_pixels: Largest height times width of an encoded image, in px; a larger image is not decoded.

    Raises:
        BadImageError: If the image cannot be read or decoded, or is too large.
        StorageError: If the storage does not answer.
    """
    try:
        content = read(source, index)
        return torch.from_numpy(content if source.kind == "pixels" else decode(content, max_pixels))
    except StorageError:
        raise
    except Exception as error:  # PIL raises whatever its decoders raise
        raise bad_image(source, index, error) from error


def why_unreadable(source: ImageSource, index: int, max_pixels: int) -> Exception | None:
    """Return the reason why PIL cannot read an image, or None if it can.

    Args:
        source: Source of the image.
        index: Position of the image in the source.
        max_pixels: Largest height times width of an encoded image, in px.
    """
    try:
        content = read(source, index)
        if source.kind != "pixels":
            _decode_by_pil(content, max_pixels)
    except StorageError:
        raise
    except Exception as error:  # PIL raises whatever its decoders raise
        return error
    return None


def bad_image(source: ImageSource, index: int, reason: Exception) -> BadImageError:
    """Return the error that names an image and the reason why it is bad.

    Args:
        source: Source of the image.
        index: Position of the image in the source.
        reason: Error that reading or decoding raised.
    """
    return BadImageError(f"{source.place(index)}: {type(reason).__name__}: {reason}; remove or replace it", index)


def decode(content: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    """Return the RGB pixels of an encoded image, (H, W, 3) uint8. EXIF orientation is ignored.

    Args:
        content: Bytes of a file, (n,) uint8.
        max_pixels: Largest height times width, in px; a larger image is not decoded.

    Raises:
        Exception: If the image cannot be decoded, or is too large. The class is whatever PIL raises.
    """
    if content[:2].tobytes() != b"\xff\xd8":
        return _decode_by_pil(content, max_pixels)
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(content)
        if colorspace not in ("CMYK", "YCCK") and height * width <= max_pixels:
            # These are PIL's pixels. PIL takes 1.5 times as long.
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, fastdct=False, fastupsample=False)
            return pixels
    except ValueError:
        pass
    # PIL reads more kinds of JPEG, or says what is wrong.
    return _decode_by_pil(content, max_pixels)


def _decode_by_pil(content: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    if not content.size:
        raise ValueError("the file is empty")
    try:
        image = Image.open(io.BytesIO(content.data))
    except UnidentifiedImageError as error:
        raise ValueError("the file is not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"the image has more pixels than max_pixels, {max_pixels}: {error}") from error
    with image, whole_images_only:
        if image.format not in FORMATS:
            raise ValueError(f"{image.format} is not supported; convert the image to JPEG or PNG")
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels are more than max_pixels, {max_pixels}")
        return to_rgb(image)


def for_dali(content: NDArray[np.uint8], max_pixels: int, *, always: bool = False) -> NDArray[np.uint8]:
    """Return bytes that DALI decodes to the same pixels as read_pixels.

    DALI reads JPEG, WebP, and PNG of up to 8 bits as PIL does, so their bytes are returned as they are. Other formats
    and depths are decoded here and returned as PPM, a header and the pixels. DALI would refuse some of them without
    naming the file, and read others differently.

    Args:
        content: Bytes of a file, (n,) uint8.
        max_pixels: Largest height times width of an encoded image, in px.
        always: Whether a file that DALI should read is decoded here too.

    Raises:
        Exception: If PIL cannot read the file. The class is whatever PIL raises.
    """
    if not always and _is_read_by_dali(content[:32].tobytes()):
        return content
    return as_ppm(decode(content, max_pixels))


def _is_read_by_dali(head: bytes) -> bool:
    is_png = head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR"
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head[:2] == b"\xff\xd8" or is_webp or (is_png and head[24] <= 8)
