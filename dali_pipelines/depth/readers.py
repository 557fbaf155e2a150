"""Choose the reader of an image by its first bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.decoding.read_pixels import decode
from dali_pipelines.depth.array_image import MAGIC, read_npy
from dali_pipelines.depth.decoded import Decoded, Request, checked
from dali_pipelines.depth.dicom import is_dicom, read_dicom
from dali_pipelines.depth.jpeg2000 import header_of, read_jpeg2000
from dali_pipelines.depth.png import is_deep_png, read_png
from dali_pipelines.depth.tiff import MAGICS, is_read_by_pil, read_tiff

_HEAD_BYTES = 132


def read_image(content: NDArray[np.uint8], request: Request) -> Decoded:
    """Return the pixels of an encoded image at full depth. What has 8 bits in PIL's formats is read as RGB, by PIL.

    Args:
        content: Bytes of a file, (n,) uint8.
        request: Channels and bounds.

    Raises:
        MissingPackageError: If the format needs a package that is not installed.
        Exception: If the image cannot be decoded, or is too large. The class is whatever the decoders raise.
    """
    head = content[:_HEAD_BYTES].tobytes()
    if head.startswith(MAGIC):
        return checked(read_npy(content, request))
    if is_dicom(head):
        return checked(read_dicom(content, request))
    if head.startswith(MAGICS):
        return checked(read_tiff(content, request))
    if is_deep_png(head):
        return checked(read_png(content, request))
    if (header := header_of(content)) is not None and header.bits > 8:
        return checked(read_jpeg2000(content, request))
    return Decoded("8 bits", request.selected(decode(content, request.max_pixels)), 8, (0.0, 255.0))


def suffix_of(content: NDArray[np.uint8]) -> str:
    """Return the suffix of an image that is not one of 8 bits for PIL; see is_eight_bits.

    Args:
        content: Bytes of a file, (n,) uint8.
    """
    head = content[:_HEAD_BYTES].tobytes()
    if head.startswith(MAGIC):
        return "npy"
    if is_dicom(head):
        return "dcm"
    if head.startswith(MAGICS):
        return "tif"
    return "png" if is_deep_png(head) else "jp2"


def is_eight_bits(content: NDArray[np.uint8], max_pixels: int) -> bool:
    """Return whether an image has up to 8 bits, and is gray, RGB, RGBA or a palette, so that PIL reads all of it.

    Args:
        content: Bytes of a file, (n,) uint8.
        max_pixels: Largest height times width, in px.
    """
    head = content[:_HEAD_BYTES].tobytes()
    if is_dicom(head):
        return False
    if head.startswith(MAGICS):
        return is_read_by_pil(content, max_pixels)
    header = header_of(content)
    is_deep_jpeg2000 = header is not None and header.bits > 8
    return not (head.startswith(MAGIC) or is_deep_png(head) or is_deep_jpeg2000)
