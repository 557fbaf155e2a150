"""TIFF files are read as tifffile reads them, with what their tags say about channels, range and missing values."""

from __future__ import annotations

import io
import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from dali_pipelines.depth.readers import is_eight_bits
from tests.dali_pipelines.depth.deep_files import FIVE, GRAY, MOST_PIXELS, PAGES, RGB, read, tiff

EIGHT = (FIVE >> 8).astype(np.uint8)
# One directory for all pages.
ONE_DIRECTORY = tiff(PAGES, truncate=True)
COLORS = np.random.default_rng(1).integers(0, 65536, (3, 2**16), dtype=np.uint16)


def pages_last(values: Any) -> Any:
    return np.moveaxis(values, 0, 2)


@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize(
    "options", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"tile": (16, 16)}, {"rowsperstrip": 7}], ids=str
)
def test_gray_of_every_type(dtype: str, options: dict[str, Any]) -> None:
    content = tiff(GRAY.astype(dtype) - GRAY.astype(dtype).mean().astype(dtype) * (dtype[0] != "u"), **options)
    decoded = read(content)
    assert decoded.values.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(decoded.values[..., 0], tifffile.imread(io.BytesIO(content)))
    assert decoded.bits == np.dtype(dtype).itemsize * 8
    assert (decoded.bounds, decoded.missing, decoded.is_inverted, decoded.left_out) == (None, None, False, "")


@pytest.mark.parametrize(
    "compression",
    ["deflate", "lzw", "packbits", "zstd", "lzma", "jpeg2000", "jpegxr", "lerc", "png", "jpegxl", "jpeg", "pixtiff"],
)
@pytest.mark.parametrize("image", [GRAY, RGB], ids=["gray", "rgb"])
def test_every_compression(compression: str, image: Any) -> None:
    content = tiff(image, compression=compression, photometric="rgb" if image.ndim == 3 else "minisblack")
    expected = tifffile.imread(io.BytesIO(content)).reshape(40, 28, -1)
    np.testing.assert_array_equal(read(content).values, expected)


def test_predictors() -> None:
    for values, predictor in ((GRAY, 2), (GRAY.astype(np.float32), 3)):
        content = tiff(values, compression="deflate", predictor=predictor)
        np.testing.assert_array_equal(read(content).values[..., 0], values)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff(FIVE, planarconfig="contig", photometric="minisblack"), FIVE),
        (tiff(PAGES, planarconfig="separate", photometric="minisblack"), FIVE),
        (tiff(PAGES, planarconfig="separate", photometric="minisblack", tile=(16, 16)), FIVE),
        (tiff(PAGES, imagej=True, metadata={"axes": "CYX"}), FIVE),
        (tiff(PAGES, ome=True, metadata={"axes": "CYX"}), FIVE),
        (tiff(np.stack([PAGES, PAGES + 1]), ome=True, metadata={"axes": "TCYX"}, compression="lzw"), FIVE),
        (tiff(np.stack([PAGES, PAGES + 1], 1), ome=True, metadata={"axes": "CZYX"}, compression="lzw"), FIVE),
        (tiff(FIVE), FIVE),
        (tiff(EIGHT, planarconfig="contig", photometric="minisblack"), EIGHT),
        (tiff(EIGHT[..., :4], photometric="rgb", extrasamples=["unspecified"]), EIGHT[..., :4]),
        (tiff(EIGHT[..., :4], photometric="rgb"), EIGHT[..., :3]),
        (tiff(FIVE[..., :4], photometric="rgb"), FIVE[..., :3]),
        (tiff(FIVE[..., :2], photometric="minisblack", planarconfig="contig", extrasamples=[2]), FIVE[..., :1]),
    ],
)
def test_channels(content: bytes, expected: Any) -> None:
    np.testing.assert_array_equal(read(content).values, expected)


def test_chosen_channels_count_alpha_and_pages() -> None:
    content = tiff(FIVE[..., :4], photometric="rgb")
    np.testing.assert_array_equal(read(content, [3, 0]).values, FIVE[..., [3, 0]])
    plain = {"metadata": None}
    for content in (tiff(PAGES), tiff(PAGES, **plain), tiff(PAGES, **plain, compression="lzw"), ONE_DIRECTORY):
        np.testing.assert_array_equal(read(content, [4, 4, 1]).values, FIVE[..., [4, 4, 1]])
        with pytest.raises(ValueError, match="channel 5 does not exist, because the image has 5 channel"):
            read(content, [0, 5])


@pytest.mark.parametrize(
    "options", [{}, {"metadata": None}, {"imagej": True, "metadata": {"axes": "ZYX"}}, {"compression": "lzw"}], ids=str
)
def test_the_first_page_is_read_if_pages_are_no_channels(options: dict[str, Any]) -> None:
    decoded = read(tiff(PAGES, **options))
    np.testing.assert_array_equal(decoded.values[..., 0], PAGES[0])
    assert decoded.left_out == "4 more page(s)"


def test_a_palette_of_16_bits() -> None:
    content = tiff(GRAY, photometric="palette", colormap=COLORS)
    decoded = read(content)
    np.testing.assert_array_equal(decoded.values, np.moveaxis(COLORS[:, GRAY], 0, 2))
    assert decoded.bounds == (0, 65535)


def test_a_palette_of_8_bits_has_pils_colors() -> None:
    content = tiff(EIGHT[..., 0], photometric="palette", colormap=COLORS[:, :256])
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    decoded = read(content, [2, 1, 0])
    np.testing.assert_array_equal(decoded.values, expected[..., ::-1])
    assert decoded.bounds == (0, 255)


def test_12_bits_without_padding() -> None:
    data = imagecodecs.packints_encode(GRAY, 12)
    tags = [(256, 28), (257, 40), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 12 * 9 + 4), (277, 1)]
    tags += [(278, 40), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    decoded = read(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data)
    np.testing.assert_array_equal(decoded.values[..., 0], GRAY)
    assert (decoded.bits, decoded.bounds) == (12, (0, 4095))


def test_white_that_is_zero() -> None:
    decoded = read(tiff(GRAY, photometric="miniswhite"))
    np.testing.assert_array_equal(decoded.values[..., 0], GRAY)
    assert decoded.is_inverted


@pytest.mark.parametrize(("nodata", "values"), [("-9999", GRAY.astype(np.float32)), ("nan", GRAY.astype(np.float32))])
def test_nodata_is_missing(nodata: str, values: Any) -> None:
    values = values.copy()
    values[3, 4:9] = float(nodata)
    decoded = read(tiff(values, extratags=[(42113, "s", 0, nodata, True)]))
    assert decoded.missing is not None
    np.testing.assert_array_equal(np.argwhere(decoded.missing[..., 0]), [[3, column] for column in range(4, 9)])


def test_nan_is_bad_without_nodata() -> None:
    values = GRAY.astype(np.float32)
    values[0, :2] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"2 of 1120 values are NaN or infinite; .* the GeoTIFF's nodata value"):
        read(tiff(values))


def test_what_is_refused() -> None:
    for options in ({"photometric": "separated"}, {"photometric": "cielab"}):
        values = FIVE[..., : 4 if options["photometric"] == "separated" else 3]
        with pytest.raises(ValueError, match=r"photometric interpretation \w+ is not read at this depth"):
            read(tiff(values, **options))
    with pytest.raises(ValueError, match="28 x 40 pixels are more than max_pixels, 1000"):
        read(tiff(GRAY), max_pixels=1000)
    with pytest.raises(ValueError, match="28 x 40 pixels of 5 channels are more than 4 times max_pixels, 1120"):
        read(tiff(FIVE, planarconfig="contig", photometric="minisblack"), max_pixels=1120)
    for content in (
        tiff(GRAY, rowsperstrip=10),
        tiff(GRAY, compression="lzw", rowsperstrip=5),
        tiff(GRAY, tile=(16, 16)),
    ):
        with pytest.raises(Exception, match=r"truncated|failed to read"):
            read(content[:-40])


@pytest.mark.parametrize(
    ("content", "is_eight"),
    [
        (tiff(EIGHT[..., 0]), True),
        (tiff(EIGHT[..., 0], photometric="miniswhite"), True),
        (tiff(EIGHT[..., 0], photometric="palette", colormap=COLORS[:, :256]), True),
        (tiff(EIGHT[..., :3], photometric="rgb"), True),
        (tiff(EIGHT[..., :4], photometric="rgb"), True),
        (tiff(EIGHT[..., 0] > 9), True),
        (tiff(EIGHT[..., :3], photometric="rgb", compression="jpeg"), True),
        (tiff((PAGES >> 8).astype(np.uint8)), True),
        (tiff(EIGHT[..., :4], photometric="rgb", extrasamples=["unspecified"]), False),
        (tiff((PAGES >> 8).astype(np.uint8), imagej=True, metadata={"axes": "CYX"}), False),
        (tiff((PAGES[:3] >> 8).astype(np.uint8), ome=True, metadata={"axes": "CYX"}), False),
        (tiff(EIGHT, planarconfig="contig", photometric="minisblack"), False),
        (tiff(EIGHT[..., 0].astype(np.int8)), False),
        (tiff(EIGHT[..., :3], photometric="rgb", compression="zstd"), True),
        (tiff(GRAY), False),
        (tiff(GRAY.astype(np.float32)), False),
        (tiff(RGB, photometric="rgb"), False),
    ],
)
def test_what_pil_reads_as_always(content: bytes, is_eight: bool) -> None:
    assert is_eight_bits(np.frombuffer(content, dtype=np.uint8), MOST_PIXELS) == is_eight
