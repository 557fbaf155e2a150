"""Try images of many bit depths (A1)."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hostile_cases import Place, Try, tries
from hostile_cases_process import Raised, attempted
from hostile_cases_verdicts import accepted, raises, refused, right
from numpy.typing import NDArray
from PIL import Image

# The left half has a quarter of the range, the right half three quarters.
F = np.where(np.arange(32) < 16, 0.25, 0.75)[None].repeat(32, 0)
LEVELS = (64, 191)
_TOLERANCE = 4
Levels = tuple[int, int]


def scaled(top: float, kind: str) -> NDArray[Any]:
    return np.round(F * top).astype(kind) if np.dtype(kind).kind in "iu" else (F * top).astype(kind)


def pil(array: NDArray[Any], form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, form, **options)
    return out.getvalue()


def tiff(array: NDArray[Any], **options: Any) -> bytes:
    import tifffile

    out = io.BytesIO()
    tifffile.imwrite(out, array, metadata=None, **options)
    return out.getvalue()


def packed_tiff(
    bits: int, sample_format: int = 1, photometric: int = 1, tags: tuple[tuple[int, int], ...] = ()
) -> bytes:
    """Return a TIFF whose samples have any number of bits, 1 to 16, packed without gaps."""
    top = (1 << bits) - 1
    values = np.round((F if photometric == 1 else 1 - F) * top).astype(int)
    rows = [np.packbits([(value >> bit) & 1 for value in row for bit in range(bits - 1, -1, -1)]) for row in values]
    pixels = b"".join(row.tobytes() for row in rows)
    entries = [(256, 32), (257, 32), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1), (278, 32)]
    entries += [(279, len(pixels)), (339, sample_format), *tags]
    start = 8 + 2 + 12 * len(entries) + 4
    entries = sorted((tag, start if tag == 273 else value) for tag, value in entries)
    body = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    return b"MM\0*" + struct.pack(">IH", 8, len(entries)) + body + b"\0" * 4 + pixels


def png(depth: int, color: int, chunks: bytes = b"") -> bytes:
    """Return a PNG of any depth: gray (0), RGB (2), gray with alpha (4), or RGBA (6), with an alpha of one half."""
    top, channels = (1 << depth) - 1, {0: 1, 2: 3, 4: 2, 6: 4}[color]
    values = np.round(F * top).astype(int)[..., None].repeat(channels, 2)
    if color in (4, 6):
        values[..., -1] = top // 2
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = [[(v >> bit) & 1 for v in row.ravel() for bit in range(depth - 1, -1, -1)] for row in values]
        rows = [np.packbits(row).tobytes() for row in bits]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, depth, color, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + data + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def pnm(magic: str, top: int, channels: int = 1) -> bytes:
    values = np.round(F * top).astype(int)[..., None].repeat(channels, 2)
    head = f"{magic}\n# a comment\n32 32\n{top}\n".encode()
    if magic in ("P2", "P3"):
        return head + " ".join(map(str, values.ravel())).encode()
    return head + values.astype(">u2" if top > 255 else "u1").tobytes()


def rgb(array: NDArray[Any], channels: int = 3) -> NDArray[Any]:
    return array[..., None].repeat(channels, 2)


# The bytes and the right levels of each file, by its name. None means that the readers must only agree.
DEPTHS: dict[str, tuple[Callable[[], bytes], Levels | None]] = {
    "float32 in [0,1].tif": (lambda: tiff(scaled(1, "f4")), LEVELS),
    "float64 in [0,1].tif": (lambda: tiff(scaled(1, "f8")), LEVELS),
    "float16 in [0,1].tif": (lambda: tiff(scaled(1, "f2")), LEVELS),
    "float32 big-endian.tif": (lambda: tiff(scaled(1, "f4"), byteorder=">"), LEVELS),
    "float32 in [0,255].tif": (lambda: tiff(scaled(255, "f4")), LEVELS),
    "float32 in [0,3000].tif": (lambda: tiff(scaled(3000, "f4")), None),
    "float32 in [-1,1].tif": (lambda: tiff(scaled(2, "f4") - 1), None),
    "float32 with NaN.tif": (lambda: tiff(np.where(F > 0.5, np.nan, F).astype("f4")), None),
    "float32 RGB.tif": (lambda: tiff(rgb(scaled(1, "f4")), photometric="rgb"), LEVELS),
    "uint16.tif": (lambda: tiff(scaled(65535, "u2")), LEVELS),
    "uint16 big-endian.tif": (lambda: tiff(scaled(65535, "u2"), byteorder=">"), LEVELS),
    "uint16 white is zero.tif": (lambda: tiff(scaled(65535, "u2"), photometric="miniswhite"), None),
    "uint16 RGB.tif": (lambda: tiff(rgb(scaled(65535, "u2")), photometric="rgb"), LEVELS),
    "uint16 RGB planar.tif": (
        lambda: tiff(rgb(scaled(65535, "u2")).transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        LEVELS,
    ),
    "int16.tif": (lambda: tiff(scaled(32767, "i2")), None),
    "int16 negative.tif": (lambda: tiff((scaled(60000, "i4") - 30000).astype("i2")), None),
    "int32 to 65535.tif": (lambda: tiff(scaled(65535, "i4")), None),
    "int32 to 2^31.tif": (lambda: tiff(scaled(2**31 - 1, "i4")), None),
    "uint32 to 2^32.tif": (lambda: tiff(scaled(2**32 - 1, "u4")), None),
    "int8.tif": (lambda: tiff(scaled(127, "i1")), None),
    "uint8.tif": (lambda: tiff(scaled(255, "u1")), LEVELS),
    "uint8 white is zero.tif": (lambda: tiff(255 - scaled(255, "u1"), photometric="miniswhite"), LEVELS),
    "1 bit.tif": (lambda: packed_tiff(1), (0, 255)),
    "1 bit white is zero.tif": (lambda: packed_tiff(1, photometric=0), (0, 255)),
    "2 bit.tif": (lambda: packed_tiff(2), (85, 170)),
    "4 bit.tif": (lambda: packed_tiff(4), LEVELS),
    "4 bit white is zero.tif": (lambda: packed_tiff(4, photometric=0), LEVELS),
    "10 bit.tif": (lambda: packed_tiff(10), LEVELS),
    "12 bit.tif": (lambda: packed_tiff(12), LEVELS),
    "14 bit.tif": (lambda: packed_tiff(14), LEVELS),
    "gray 65535.pgm": (lambda: pnm("P5", 65535), LEVELS),
    "gray 4095.pgm": (lambda: pnm("P5", 4095), LEVELS),
    "gray 1023.pgm": (lambda: pnm("P5", 1023), LEVELS),
    "gray 100.pgm": (lambda: pnm("P5", 100), LEVELS),
    "gray 1.pgm": (lambda: pnm("P5", 1), (0, 255)),
    "plain 65535.pgm": (lambda: pnm("P2", 65535), LEVELS),
    "plain 9.pgm": (lambda: pnm("P2", 9), (57, 198)),
    "color 65535.ppm": (lambda: pnm("P6", 65535, 3), LEVELS),
    "color 1023.ppm": (lambda: pnm("P6", 1023, 3), LEVELS),
    "plain 65535.ppm": (lambda: pnm("P3", 65535, 3), LEVELS),
    "plain 1000.pnm": (lambda: pnm("P2", 1000), LEVELS),
    "float map.pnm": (lambda: b"Pf\n32 32\n-1.0\n" + scaled(1, "<f4").tobytes(), LEVELS),
    "16 bit gray.png": (lambda: png(16, 0), LEVELS),
    "16 bit RGB.png": (lambda: png(16, 2), LEVELS),
    "16 bit gray alpha.png": (lambda: png(16, 4), LEVELS),
    "16 bit RGBA.png": (lambda: png(16, 6), LEVELS),
    "12 of 16 bits.png": (lambda: png(16, 0, chunk(b"sBIT", b"\x0c")), LEVELS),
    "1 bit.png": (lambda: png(1, 0), (0, 255)),
    "2 bit.png": (lambda: png(2, 0), (85, 170)),
    "4 bit.png": (lambda: png(4, 0), LEVELS),
    "16 bit gray.jp2": (lambda: pil(scaled(65535, "u2"), "JPEG2000"), LEVELS),
    "8 bit RGB.jp2": (lambda: pil(rgb(scaled(255, "u1")), "JPEG2000"), LEVELS),
    "1 bit.bmp": (lambda: pil(F > 0.5, "BMP"), (0, 255)),
    "lossless.webp": (lambda: pil(rgb(scaled(255, "u1")), "WEBP", lossless=True), LEVELS),
}
_MUST_BE_READ = ("uint16.tif", "uint8.tif", "16 bit gray.png", "16 bit RGB.png", "4 bit.png", "gray 100.pgm")


def level(path: Path, backend: str) -> Levels:
    """Return the mean levels of both halves in a loader's batch."""
    from dali_pipelines import Backend, EvalLoader
    from dali_pipelines.views.params import EvalParams

    view = EvalParams(32, 32, "bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
    loader = EvalLoader(path, 1, view, backend=Backend(backend, device="cpu"))  # type: ignore[arg-type]
    return _halves(next(iter(loader))[0][0])


def transformed(path: Path) -> Levels:
    from bt_plugin import BarlowTwinsTransform
    from dali_pipelines.views.params import Preset, ViewParams

    off = {"flip_p": 0.0, "jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0, "solarize_p": 0.0}
    whole = {"size_px": 32, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    view = ViewParams(**whole, **off)  # type: ignore[arg-type]
    with Image.open(path) as image:
        return _halves(BarlowTwinsTransform(Preset((view,)))(image)[0])


def _halves(view: Any) -> Levels:
    left, right_ = (255 * view[..., columns].mean().item() for columns in (slice(2, 14), slice(18, 30)))
    return round(left), round(right_)


def _depth(place: Place, name: str, build: Callable[[], bytes], expected: Levels | None) -> None:
    """Read the image with loaders, transform and scan. All must read it correctly, or all must refuse it by name."""
    folder = place.folder / "odd"
    folder.mkdir()
    (folder / name).write_bytes(build())
    ways = {"native": lambda: level(folder, "native"), "dali": lambda: level(folder, "dali")}
    ways["transform"] = lambda: transformed(folder / name)
    result = place.call(lambda: {how: attempted(way) for how, way in ways.items()}, 40)
    raises(result)
    found: dict[str, Levels | None] = {}
    for how, value in result.value.items():
        # If PIL itself cannot open the file, there is no image to transform.
        foreign = isinstance(value, Raised) and value.kind == "UnidentifiedImageError"
        needles = () if how == "transform" else (name,)
        found[how] = found["native"] if foreign else None if raises(replace(result, value=value), *needles) else value
    scan = accepted(place.bt("scan", folder, "-o", "s"))
    found["scan"] = (0, 0) if "1 good" in scan.out else None
    right(len({levels is None for levels in found.values()}) == 1, f"some read it, others refuse it: {found}")
    levels = [found[how] for how in ("native", "dali", "transform")]
    if levels[0] is not None:
        targets = [*levels, expected or levels[0]]
        spread = [
            max(each[half] for each in targets if each) - min(each[half] for each in targets if each) for half in (0, 1)
        ]
        right(max(spread) <= _TOLERANCE, f"levels differ: {found}, right: {expected}")
    elif name in _MUST_BE_READ:
        refused(scan)


def all_tries() -> list[Try]:
    """Return the tries of this kind."""
    return tries("A1", {name: (name, *case) for name, case in DEPTHS.items()}, _depth)
