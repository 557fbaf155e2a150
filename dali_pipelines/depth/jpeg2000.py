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
