"""Read PNG of 16 bits by PIL, which itself reads only gray at this depth."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dali_pipelines.decoding.read_pixels import whole_images_only
from dali_pipelines.depth.decoded import Decoded, Request

_MAGIC = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">II2B3x")
_CHUNK = struct.Struct(">I4s")
_CHECKSUM_BYTES = 4
_HEADER_BEGIN, _HEADER_END = 16, 29
# Kinds of pixels in the header, with the number of channels of each.
_GRAY, _RGB, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 4, 6
_CHANNELS = {_GRAY: 1, _RGB: 3, _GRAY_ALPHA: 2, _RGB_ALPHA: 4}
_ALPHA = {_GRAY_ALPHA: (1,), _RGB_ALPHA: (3,)}
# Position of the byte that is 0 if the rows are stored in their order.
_INTERLACE = 28


def is_deep_png(head: bytes) -> bool:
    """Return whether a file is a PNG of 16 bits.

    Args:
        head: Its first bytes, at least 33 if it has so many.
    """
    return len(head) >= 33 and head[:8] == _MAGIC and head[12:16] == b"IHDR" and head[24] == 16


def read_png(content: NDArray[np.uint8], request: Request) -> Decoded:
    """Return the pixels of a PNG of 16 bits. The last of two or four channels is alpha.

    Args:
        content: Bytes of the file, (n,) uint8.
        request: Channels and bounds.

    Raises:
        Exception: If the image is too large, or the file is damaged. The class is whatever PIL raises.
    """
    kind, _ = _checked(content, request)
    if kind == _GRAY:
        values = _read(content)[..., None]
    elif kind == _GRAY_ALPHA:
        values = _read(_as_rgba_of_8_bits(content)).view(">u2")
    else:
        # The rawmode for little endian takes the second byte of each value. PNG is big endian.
        mode = "RGB" if kind == _RGB else "RGBA"
        values = _read(content, f"{mode};16B").astype(np.uint16) << 8
        values |= _read(content, f"{mode};16L")
    return Decoded("PNG", request.selected(values, alpha=_ALPHA.get(kind, ())), 16)


def channels_for_dali(content: NDArray[np.uint8], request: Request) -> tuple[int, ...] | None:
    """Return the numbers of the used channels of a PNG of 16 bits, if DALI decodes all of its channels unchanged.

    Args:
        content: Bytes of the file, (n,) uint8.
        request: Channels and bounds.

    Raises:
        ValueError: If the image is too large, or the file is damaged.
    """
    kind, chunks = _checked(content, request)
    # OpenCV, which DALI uses, makes a channel of a transparent color.
    if kind == _GRAY_ALPHA or b"tRNS" in chunks or content[_INTERLACE]:
        return None
    return request.numbers(_CHANNELS[kind], alpha=_ALPHA.get(kind, ()))


def _checked(content: NDArray[np.uint8], request: Request) -> tuple[int, set[bytes]]:
    """Return the color type and the kinds of the chunks of a PNG that is whole and not too large."""
    width, height, _, kind = _HEADER.unpack(content[_HEADER_BEGIN:_HEADER_END].tobytes())
    if kind not in _CHANNELS:
        raise ValueError(f"the header of the PNG is damaged: 16 bits are not allowed for color type {kind}")
    request.check_size(height, width, _CHANNELS[kind])
    return kind, _checked_chunks(content.data)


def _read(content: NDArray[np.uint8], rawmode: str | None = None) -> NDArray[Any]:
    """Return the pixels as PIL reads them, in another rawmode if one is given."""
    with Image.open(io.BytesIO(content.data), formats=["PNG"]) as image, whole_images_only:
        if rawmode is not None:
            (tile,) = image.tile
            image.tile = [(*tile[:3], rawmode)]  # type: ignore[list-item]
        return np.array(image)


def _checked_chunks(content: memoryview) -> set[bytes]:
    """Return the kinds of the chunks. Raise if pixels are truncated or have another checksum, which PIL ignores."""
    begin, kind, kinds = len(_MAGIC), b"", set()
    while kind != b"IEND":
        data = begin + _CHUNK.size
        if data > len(content):
            raise ValueError(f"the PNG is truncated at byte {len(content)}")
        size, kind = _CHUNK.unpack_from(content, begin)
        begin = data + size + _CHECKSUM_BYTES
        if begin > len(content):
            raise ValueError(f"the PNG is truncated at byte {len(content)}")
        checksum = int.from_bytes(content[data + size : begin], "big")
        if kind == b"IDAT" and zlib.crc32(content[data - 4 : data + size]) != checksum:
            raise ValueError(f"the pixels at byte {data} of the PNG are damaged")
        kinds.add(kind)
    return kinds


def _as_rgba_of_8_bits(content: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a PNG whose pixels are the bytes of gray and alpha of 16 bits: these are as many as those of RGBA."""
    changed = np.array(content)
    changed[24:26] = 8, _RGB_ALPHA
    checksum = zlib.crc32(changed[_HEADER_BEGIN - 4 : _HEADER_END].tobytes())
    changed[_HEADER_END : _HEADER_END + 4] = np.frombuffer(checksum.to_bytes(4, "big"), dtype=np.uint8)
    return changed
