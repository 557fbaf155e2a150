"""Read JPEG 2000 of more than 8 bits."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.depth.decoded import Decoded, Request
from dali_pipelines.depth.packages import import_imagecodecs

_FILE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
# Start of a codestream, and the marker of its size segment.
_CODESTREAM = b"\xff\x4f\xff\x51"
# The codestream begins after a few small boxes.
_SEARCHED_BYTES = 65536
_END_OF_CODESTREAM = b"\xff\xd9"
# Of a color box that names sRGB or gray: its type, the method, two unused bytes, and the number of the color space.
_COLORS = (b"colr\x01\x00\x00\x00\x00\x00\x10", b"colr\x01\x00\x00\x00\x00\x00\x11")
_PALETTE = b"pclr"


class Header(NamedTuple):
    """The header of a JPEG 2000 image: its size in px, channels, and the bits of each."""

    height_px: int
    width_px: int
    channels: int
    bits: int
    is_signed: bool


def header_of(content: NDArray[np.uint8]) -> Header | None:
    """Return the header of a JPEG 2000 image, or None if it is another format or damaged.

    Args:
        content: Bytes of the file, (n,) uint8.
    """
    head = content[:_SEARCHED_BYTES].tobytes()
    if not head.startswith((_FILE, _CODESTREAM)):
        return None
    begin = head.find(_CODESTREAM)
    if begin < 0 or len(head) < begin + 43:
        return None
    # Of eight numbers, the first four are the end and the begin of the image.
    x_end, y_end, x_begin, y_begin = struct.unpack_from(">4I", head, begin + 8)
    (channels,) = struct.unpack_from(">H", head, begin + 40)
    kinds = head[begin + 42 : begin + 42 + 3 * channels : 3]
    if not kinds:
        return None
    return Header(
        y_end - y_begin, x_end - x_begin, channels, max(kind & 0x7F for kind in kinds) + 1, bool(kinds[0] & 0x80)
    )


def read_jpeg2000(content: NDArray[np.uint8], request: Request) -> Decoded:
    """Return the pixels of a JPEG 2000 image. A second or fourth channel is alpha.

    Args:
        content: Bytes of the file, (n,) uint8.
        request: Channels and bounds.

    Raises:
        Exception: If the file is damaged. The class is whatever imagecodecs raises.
    """
    header = header_of(content)
    if header is None:
        raise ValueError("the header of the JPEG 2000 image is damaged")
    request.check_size(header.height_px, header.width_px, header.channels)
    values = import_imagecodecs().jpeg2k_decode(content.tobytes())
    values = values[..., None] if values.ndim == 2 else values
    alpha = (values.shape[2] - 1,) if values.shape[2] in (2, 4) else ()
    bounds = None if header.is_signed or header.bits == 16 else (0.0, float(2**header.bits - 1))
    return Decoded("JPEG 2000", request.selected(values, alpha=alpha), header.bits, bounds)


def channels_for_dali(content: NDArray[np.uint8], request: Request) -> tuple[int, ...] | None:
    """Return the numbers of the used channels of a JPEG 2000 image, if DALI decodes all of its channels unchanged.

    These are images of 9 to 16 bits in files that name sRGB or gray as their color space.

    Args:
        content: Bytes of the file, (n,) uint8.
        request: Channels and bounds.

    Raises:
        ValueError: If the image is too large, or a requested channel does not exist.
    """
    header = header_of(content)
    if header is None or header.is_signed or not 8 < header.bits <= 16 or header.channels not in (1, 3, 4):
        return None
    head = content[:_SEARCHED_BYTES].tobytes()
    begin = head.find(_CODESTREAM) + 42
    # Every channel has the same bits, and a value for each pixel.
    are_alike = head[begin : begin + 3 * header.channels] == bytes([header.bits - 1, 1, 1]) * header.channels
    is_plain = head.startswith(_FILE) and any(colors in head for colors in _COLORS) and _PALETTE not in head
    if not are_alike or not is_plain or content[-2:].tobytes() != _END_OF_CODESTREAM:
        return None
    request.check_size(header.height_px, header.width_px, header.channels)
    return request.numbers(header.channels, alpha=(3,) if header.channels == 4 else ())
