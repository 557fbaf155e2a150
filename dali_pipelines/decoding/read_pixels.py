"""From encoded images to pixels on the host, and what is wrong with those that give none."""

from __future__ import annotations

import io
import threading

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from dali_pipelines.decoding.pil_modes import to_rgb
from dali_pipelines.errors import BadImageError
from dali_pipelines.sources import ImageSource

# PIL's names of what DALI decodes too; it also reads GIF and AVIF, which DALI does not. MPO is JPEG.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "TIFF", "WEBP", "JPEG2000", "PPM")


class _WholeImagesOnly:
    """While any thread is within, PIL refuses files that are cut short, whatever another package has asked it for.

    LightlyTrain asks it to fill them up, for the whole process; which files are bad would depend on its import.
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


_whole_images_only = _WholeImagesOnly()


def read_pixels(source: ImageSource, index: int, max_pixels: int) -> Tensor:
    """(H, W, C) uint8, RGB if it is decoded; EXIF orientation is ignored, as PIL and torchvision do.

    Args:
        source: Of the image.
        index: Of the image in it.
        max_pixels: Height times width that an encoded image may have; a larger one is not decoded.

    Raises:
        BadImageError: If the image cannot be read or decoded, or is too large.
    """
    try:
        content = source.read(index)
        return torch.from_numpy(content if source.kind == "pixels" else _decode(content, max_pixels))
    except Exception as error:  # PIL raises whatever its decoders raise
        raise bad_image(source, index, error) from error


def why_unreadable(source: ImageSource, index: int, max_pixels: int) -> Exception | None:
    """What keeps PIL from reading an image."""
    try:
        content = source.read(index)
        if source.kind != "pixels":
            _decode_by_pil(content, max_pixels)
    except Exception as error:  # PIL raises whatever its decoders raise
        return error
    return None


def bad_image(source: ImageSource, index: int, reason: Exception) -> BadImageError:
    """The error that names an image and what is wrong with it."""
    return BadImageError(f"{source.place(index)}: {type(reason).__name__}: {reason}; remove or replace it", index)


def _decode(content: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    if content[:2].tobytes() != b"\xff\xd8":
        return _decode_by_pil(content, max_pixels)
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(content)
        if colorspace not in ("CMYK", "YCCK") and height * width <= max_pixels:
            # The pixels of PIL, which takes half as long again.
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, fastdct=False, fastupsample=False)
            return pixels
    except ValueError:
        pass
    # PIL knows more kinds, or says what is wrong.
    return _decode_by_pil(content, max_pixels)


def _decode_by_pil(content: NDArray[np.uint8], max_pixels: int) -> NDArray[np.uint8]:
    if not content.size:
        raise ValueError("the file is empty")
    try:
        image = Image.open(io.BytesIO(content.data))
    except UnidentifiedImageError as error:
        raise ValueError("it is no image of a kind that is read") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"more than max_pixels, {max_pixels}: {error}") from error
    with image, _whole_images_only:
        if image.format not in FORMATS:
            raise ValueError(f"{image.format} is not read; convert it to JPEG or PNG")
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} are more than max_pixels, {max_pixels}")
        return to_rgb(image)


def for_dali(content: NDArray[np.uint8], max_pixels: int, *, always: bool = False) -> NDArray[np.uint8]:
    """Return what DALI decodes to the pixels that read_pixels gives: the file itself where that is so, else a copy.

    DALI reads JPEG, WebP and PNG of up to 8 bits as PIL does. Other formats and depths are decoded here and handed
    over as PPM, a header and the pixels: DALI would refuse some of them, without naming the file, or read others
    differently.

    Args:
        content: The bytes of a file.
        max_pixels: As for read_pixels.
        always: Whether even a file that DALI should read is decoded here.

    Raises:
        Exception: Whatever PIL raises for a file that it cannot read.
    """
    if not always and _is_read_by_dali(content[:32].tobytes()):
        return content
    pixels = _decode(content, max_pixels)
    header = f"P6 {pixels.shape[1]} {pixels.shape[0]} 255\n".encode()
    return np.concatenate([np.frombuffer(header, dtype=np.uint8), pixels.ravel()])


def _is_read_by_dali(head: bytes) -> bool:
    is_png = head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR"
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head[:2] == b"\xff\xd8" or is_webp or (is_png and head[24] <= 8)
