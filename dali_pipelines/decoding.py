"""From files to pixels on the host, and what is wrong with files that give none."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dali_pipelines.errors import BadImageError

# PIL's names of what DALI decodes too; it also reads GIF and AVIF, which DALI does not. MPO is JPEG.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "TIFF", "WEBP", "JPEG2000", "PPM")


def read_pixels(path: str, index: int) -> Tensor:
    """(H, W, 3) uint8 RGB; EXIF orientation is ignored, as PIL and torchvision do.

    Args:
        path: Of the file.
        index: Of the file in its source, for the error.

    Raises:
        BadImageError: If the file cannot be read or decoded.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
        return torch.from_numpy(_decode(content))
    except Exception as error:  # PIL raises whatever its decoders raise
        raise bad_image(path, index, error) from error


def why_unreadable(path: str) -> Exception | None:
    """What keeps PIL from reading a file."""
    try:
        with open(path, "rb") as file:
            _decode_by_pil(file.read())
    except Exception as error:  # PIL raises whatever its decoders raise
        return error
    return None


def bad_image(path: str, index: int, reason: Exception) -> BadImageError:
    """The error that names a file and what is wrong with it."""
    return BadImageError(f"{path}: {type(reason).__name__}: {reason}; remove the file or replace it", index)


def _decode(content: bytes) -> NDArray[np.uint8]:
    if not content.startswith(b"\xff\xd8"):
        return _decode_by_pil(content)
    try:
        _, _, colorspace, _ = simplejpeg.decode_jpeg_header(content)
        if colorspace in ("CMYK", "YCCK"):
            return _decode_by_pil(content)
        # The pixels of PIL, which takes half as long again.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, fastdct=False, fastupsample=False)
        return pixels
    except ValueError:
        # PIL knows more kinds, or says what is wrong.
        return _decode_by_pil(content)


def _decode_by_pil(content: bytes) -> NDArray[np.uint8]:
    if not content:
        raise ValueError("the file is empty")
    with Image.open(io.BytesIO(content)) as image:
        if image.format not in FORMATS:
            raise ValueError(f"{image.format} is not read; convert it to JPEG or PNG")
        if image.mode.startswith("I;16"):
            # PIL would clip 16 bits to 8.
            gray = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=2)
        return np.array(image.convert("RGB"))
