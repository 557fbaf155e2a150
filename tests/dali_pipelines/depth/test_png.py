"""PNG of 16 bits is read by PIL, value by value, whatever its channels; JPEG 2000 by imagecodecs."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.dali_pipelines.depth.deep_files import FIVE, GRAY, RGB, read

# First row and column, and the steps between rows and columns, of the passes of an interlaced PNG.
PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def png(values: NDArray[np.uint16], *, is_interlaced: bool = False) -> bytes:
    """A PNG without row filters."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = [values[y::dy, x::dx] for y, x, dy, dx in PASSES] if is_interlaced else [values]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts for row in part if row.size)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, is_interlaced)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png(channels: int) -> None:
    values = np.ascontiguousarray(FIVE[..., :channels])
    opaque = values[..., :1] if channels < 3 else values[..., :3]
    for content in (imagecodecs.png_encode(values.squeeze()), png(values), png(values, is_interlaced=True)):
        decoded = read(content)
        assert decoded.values.dtype == np.uint16
        np.testing.assert_array_equal(decoded.values, opaque)
        np.testing.assert_array_equal(read(content, range(channels)).values, values)
        assert (decoded.format, decoded.bits, decoded.bounds) == ("PNG", 16, None)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_damaged_png_is_bad(channels: int) -> None:
    content = imagecodecs.png_encode(np.ascontiguousarray(FIVE[..., :channels]).squeeze())
    for damaged in (content[:-20], content[: len(content) // 2], content[:30], content[:100] + b"x" + content[101:]):
        with pytest.raises((OSError, ValueError, SyntaxError)):
            read(damaged)
    plain = bytearray(png(FIVE[..., :channels]))
    plain[-40] ^= 1
    with pytest.raises(ValueError, match=r"the pixels at byte 41 of the PNG are damaged"):
        read(bytes(plain))
    with pytest.raises(ValueError, match="28 x 40 pixels are more than max_pixels, 1000"):
        read(content, max_pixels=1000)


def test_an_unknown_color_type_is_named() -> None:
    content = bytearray(png(FIVE[..., :3]))
    content[25] = 3
    with pytest.raises(ValueError, match="16 bits are not allowed for color type 3"):
        read(bytes(content))


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("values", [GRAY, RGB, FIVE[..., 0], FIVE[..., :3]], ids=["g12", "rgb12", "g16", "rgb16"])
def test_jpeg_2000(values: Any, codec: str) -> None:
    content = imagecodecs.jpeg2k_encode(values, level=0, codecformat=codec, reversible=True)
    decoded = read(content)
    np.testing.assert_array_equal(decoded.values, imagecodecs.jpeg2k_decode(content).reshape(40, 28, -1))
    np.testing.assert_array_equal(decoded.values, values.reshape(40, 28, -1))
    assert (decoded.format, decoded.bits) == ("JPEG 2000", 16)
    with pytest.raises(ValueError, match="28 x 40 pixels are more than max_pixels, 1000"):
        read(content, max_pixels=1000)
    with pytest.raises((OSError, ValueError, RuntimeError)):
        read(content[:50])
    with pytest.raises(RuntimeError):
        read(content[:-30])


def test_jpeg_2000_of_12_bits_says_its_range() -> None:
    decoded = read(imagecodecs.jpeg2k_encode(GRAY, level=0, bitspersample=12, reversible=True))
    np.testing.assert_array_equal(decoded.values[..., 0], GRAY)
    assert (decoded.bits, decoded.bounds) == (12, (0, 4095))


def test_jpeg_2000_of_8_bits_is_read_by_pil() -> None:
    content = imagecodecs.jpeg2k_encode((RGB >> 4).astype(np.uint8), level=0, reversible=True)
    decoded = read(content)
    np.testing.assert_array_equal(decoded.values, RGB >> 4)
    assert decoded.format == "8 bits"
