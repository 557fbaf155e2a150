"""Every depth and mode is read alike by both backends, `scan` and the transform, or refused by all of them by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dali_pipelines import Backend, BadImageError, EvalLoader, EvalParams, Preset, ViewParams
from dali_pipelines.decoding.read_pixels import for_dali, why_unreadable
from dali_pipelines.pil.transform import BarlowTwinsTransform
from dali_pipelines.sources import open_source
from dali_pipelines.sources.pil_modes import to_rgb
from tests.devices import on_each_device

WIDE = np.linspace(0, 1, 64 * 64).reshape(64, 64)
PLAIN = EvalParams(64, 64, "bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
WHOLE = Preset(
    (
        ViewParams(
            size_px=64, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), interpolation="bilinear",
            flip_p=0, jitter_p=0, gray_p=0, blur_p=0, mean=(0.0,) * 3, std=(1.0,) * 3,
        ),
    )
)  # fmt: skip


def saved(array: NDArray[np.generic], suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, suffix)
    return buffer.getvalue()


def in_mode(mode: str, suffix: str) -> bytes:
    buffer = io.BytesIO()
    ramp = np.repeat(np.round(WIDE * 255).astype(np.uint8)[..., None], 3, axis=2)
    image = Image.fromarray(ramp)
    if mode in ("RGBA", "LA", "PA"):
        image.putalpha(Image.fromarray(255 - ramp[..., 0]))
    image.convert(mode).save(buffer, suffix)
    return buffer.getvalue()


def saved_progressive() -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(in_mode("RGB", "jpeg"))).save(buffer, "jpeg", progressive=True)
    return buffer.getvalue()


def tiff(values: NDArray[np.generic], bits: int, sample_format: int) -> bytes:
    """A gray TIFF of one strip, of samples that PIL cannot write."""
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    height, width = values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8 + 2 + 12 * 10 + 4), (277, 1)]
    tags += [(278, height), (279, len(data)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def pnm(values: NDArray[np.generic], maxval: int, kind: bytes = b"P5") -> bytes:
    dtype = ">u2" if maxval > 255 else "u1"
    return kind + b" 64 64 %d\n" % maxval + np.round(values * maxval).astype(dtype).tobytes()


def planar_tiff(planes: NDArray[np.generic]) -> bytes:
    """An RGB TIFF of 16 bits, one plane after the other, which PIL reads as planes of 8 bits."""
    data = planes.astype("<u2").tobytes()
    plane, count, begin = len(data) // 3, 11, 8 + 2 + 12 * 11 + 4
    tags = [(256, 1, 64), (257, 1, 64), (258, 3, begin), (259, 1, 1), (262, 1, 2), (273, 3, begin + 6), (277, 1, 3)]
    tags += [(278, 1, 64), (279, 3, begin + 18), (284, 1, 2), (339, 3, begin + 30)]
    entries = b"".join(
        struct.pack("<HHII", tag, 3 if tag in (258, 339) else 4, number, value) for tag, number, value in tags
    )
    strips = struct.pack("<3I", *(begin + 36 + plane * each for each in range(3)))
    extra = (
        struct.pack("<3H", 16, 16, 16) + strips + struct.pack("<3I", plane, plane, plane) + struct.pack("<3H", 1, 1, 1)
    )
    return b"II*\0" + struct.pack("<IH", 8, count) + entries + struct.pack("<I", 0) + extra + data


def png_of_16_bits(colours: NDArray[np.generic]) -> bytes:
    """An RGB PNG of 16 bits, which PIL cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    header = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def whole(most: int, dtype: str) -> NDArray[np.generic]:
    return np.round(WIDE * most).astype(dtype)


# Name, content, and whether the ramp is read; the others have no known range.
CASES = {
    "uint8.tiff": (saved(whole(255, "u1"), "tiff"), True),
    "uint16.tiff": (saved(whole(65535, "u2"), "tiff"), True),
    "12 of 16 bits.tiff": (saved(whole(4095, "u2"), "tiff"), True),
    "uint16.png": (saved(whole(65535, "u2"), "png"), True),
    "12 of 16 bits.png": (saved(whole(4095, "u2"), "png"), True),
    "big-endian uint16.tiff": (saved(whole(65535, ">u2"), "tiff"), True),
    "float.tiff": (saved(whole(1, "f4") * 0 + WIDE.astype("f4"), "tiff"), True),
    "double.tiff": (tiff(WIDE.astype("f8"), 64, 3), None),
    "float to 255.tiff": (saved((WIDE * 255).astype("f4"), "tiff"), False),
    "float below zero.tiff": (saved((WIDE - 0.5).astype("f4"), "tiff"), False),
    "float with nan.tiff": (saved(np.where(WIDE > 0.5, np.nan, WIDE).astype("f4"), "tiff"), False),
    "float with inf.tiff": (saved(np.where(WIDE > 0.5, np.inf, WIDE).astype("f4"), "tiff"), False),
    "int32.tiff": (saved(whole(65535, "i4"), "tiff"), False),
    "int16.tiff": (tiff(whole(32767, "i2"), 16, 2), False),
    "uint32.tiff": (tiff(whole(2**32 - 1, "u4"), 32, 1), False),
    "int8.tiff": (tiff(whole(127, "i1"), 8, 2), False),
    "maxval 255.pgm": (pnm(WIDE, 255), True),
    "maxval 1023.pgm": (pnm(WIDE, 1023), True),
    "maxval 4095.pgm": (pnm(WIDE, 4095), True),
    "maxval 65535.pgm": (pnm(WIDE, 65535), True),
    "maxval 100.pgm": (pnm(WIDE, 100), True),
    "colours of 16 bits.ppm": (pnm(np.repeat(WIDE[..., None], 3, 2), 65535, b"P6"), True),
    "colours of 16 bits.png": (png_of_16_bits(np.repeat(WIDE[..., None], 3, 2) * 65535), True),
    "planes of 16 bits.tiff": (planar_tiff(np.repeat(WIDE[None], 3, 0) * 65535), False),
    "gray.jp2": (saved(whole(255, "u1"), "jpeg2000"), True),
    "uint16.jp2": (saved(whole(65535, "u2"), "jpeg2000"), True),
    **{f"{mode}.png": (in_mode(mode, "png"), True) for mode in ("L", "LA", "P", "RGB", "RGBA")},
    **{f"{mode}.tiff": (in_mode(mode, "tiff"), True) for mode in ("L", "LA", "P", "RGB", "RGBA", "CMYK")},
    **{f"{mode}.jpg": (in_mode(mode, "jpeg"), True) for mode in ("L", "RGB", "CMYK", "YCbCr")},
    "progressive.jpg": (saved_progressive(), True),
    **{f"{mode}.webp": (in_mode(mode, "webp"), True) for mode in ("RGB", "RGBA")},
    **{f"{mode}.bmp": (in_mode(mode, "bmp"), True) for mode in ("L", "P", "RGB", "1")},
    "1.png": (in_mode("1", "png"), True),
    "1.tiff": (in_mode("1", "tiff"), True),
}


def shown(path: Path, backend: str, device: str = "cpu") -> NDArray[np.float64] | str:
    """The ramp as it is shown, (64, 64) of 0 to 255; or the refusal."""
    try:
        ((images, _, _),) = EvalLoader(path, 1, PLAIN, backend=Backend(backend, device=device))  # type: ignore[arg-type]
    except BadImageError as error:
        return str(error)
    return 255 * images[0].double().mean(0).cpu().numpy()


@on_each_device
@pytest.mark.parametrize("name", CASES)
def test_both_backends_and_the_transform_agree(tmp_path: Path, name: str, device: str) -> None:
    content, is_read = CASES[name]
    path = tmp_path / f"file.{name.rpartition('.')[2]}"
    path.write_bytes(content)
    native, dali = shown(tmp_path, "native"), shown(tmp_path, "dali", device)
    try:
        transformed = BarlowTwinsTransform(WHOLE)(Image.open(path))[0].mean(0).double().numpy() * 255
    except (ValueError, OSError) as error:
        transformed = str(error)
    bad = why_unreadable(open_source(tmp_path), 0, 10_000)
    if is_read is None:  # by the version of PIL; but all alike
        is_read = bad is None
    if not is_read:
        assert isinstance(native, str)
        assert isinstance(dali, str)
        assert isinstance(transformed, str)
        assert "file." in native
        assert "file." in dali
        assert bad is not None
        return
    assert bad is None
    assert not isinstance(native, str), native
    assert not isinstance(dali, str), dali
    assert not isinstance(transformed, str), transformed
    # nvJPEG rounds the colors of single pixels otherwise than libjpeg-turbo.
    assert (np.abs(native - dali).max() if device == "cpu" else np.abs(native - dali).mean()) < 1
    assert np.abs(native - transformed).max() < 1
    if not name.startswith(("1.", "P.")) and not name.endswith(".webp"):
        assert np.abs(native - WIDE * 255).max() < 6


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F", "LA", "La", "PA", "RGBa", "RGBX"]
)
def test_every_mode_of_pil_becomes_rgb_or_an_error(mode: str) -> None:
    image = Image.new(mode, (5, 4))
    try:
        pixels = to_rgb(image)
    except ValueError:
        pytest.fail(f"{mode} is not read")
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == np.uint8


def test_sixteen_bit_colours_of_twelve_bits_are_refused(tmp_path: Path) -> None:
    dark = np.repeat(WIDE[..., None], 3, 2) * 4095
    (tmp_path / "dark.png").write_bytes(png_of_16_bits(dark))
    for backend in ("native", "dali"):
        assert "16-bit colors without a value above 4095" in str(shown(tmp_path, backend))


def test_what_dali_refuses_is_decoded_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it refuses, even where its kind is one that it should read: here, 1-bit TIFF among JPEGs."""
    from dali_pipelines.decoding import read_pixels as decoding

    monkeypatch.setattr(decoding, "_is_read_by_dali", lambda head: True)
    for number in range(6):
        (tmp_path / f"{number}.jpg").write_bytes(in_mode("1", "tiff") if number == 3 else in_mode("RGB", "jpeg"))
    found = [batch.filenames for batch in EvalLoader(tmp_path, 2, PLAIN, backend=Backend("dali", device="cpu"))]
    assert found == [["0.jpg", "1.jpg"], ["2.jpg", "3.jpg"], ["4.jpg", "5.jpg"]]


def test_jpegs_reach_dali_as_they_are() -> None:
    for name in ("RGB.jpg", "RGB.png", "P.png", "1.png", "RGBA.webp"):
        content = np.frombuffer(CASES[name][0], dtype=np.uint8)
        assert for_dali(content, 10_000) is content
    for name in ("uint16.png", "RGB.tiff", "maxval 1023.pgm"):
        assert for_dali(np.frombuffer(CASES[name][0], dtype=np.uint8), 10_000)[:2].tobytes() == b"P6"
