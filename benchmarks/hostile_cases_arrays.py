"""Try files of arrays (B5, D10)."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from hostile_cases import Place, Try, tries
from hostile_cases_process import Raised
from hostile_cases_verdicts import helpful, raises, refused, right


def _pixels(count: int = 12) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def _npy(array: Any, **head: Any) -> bytes:
    """Return the bytes of a .npy file, whose header may be wrong."""
    values = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | head
    text = str(values).encode()
    text = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + array.tobytes()


def _npz(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return out.getvalue()


def _arrays(**arrays: Any) -> bytes:
    return _npz({name: _npy(np.asarray(array)) for name, array in arrays.items()})


def spoilt(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[3000] ^= 1
    return bytes(changed)


_ARRAYS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "cut in the pixels": (".npy", lambda: _npy(_pixels())[:9000]),
    "cut in the header": (".npy", lambda: _npy(_pixels())[:40]),
    "nothing": (".npy", lambda: b""),
    "the magic alone": (".npy", lambda: b"\x93NUMPY"),
    "version 9": (".npy", lambda: b"\x93NUMPY\x09\0" + _npy(_pixels())[8:]),
    "a negative size": (".npy", lambda: _npy(_pixels(), shape=(-12, 32, 32, 3))),
    "a size of zero": (".npy", lambda: _npy(_pixels(), shape=(0, 32, 32, 3))),
    "a size that is no number": (".npy", lambda: _npy(_pixels(), shape=("12", 32, 32, 3))),
    "a size of 200 TiB": (".npy", lambda: _npy(_pixels(), shape=(2**36, 32, 32, 3))),
    "a size beyond 64 bits": (".npy", lambda: _npy(_pixels(), shape=(2**70, 32, 32, 3))),
    "a header that is code": (".npy", lambda: _npy(_pixels(), shape="X").replace(b"'X'", b"open('ran','w')")),
    "a deep header": (".npy", lambda: _npy(_pixels(), shape="X").replace(b"'X'", b"(" * 900 + b")" * 900)),
    "floats": (".npy", lambda: _npy(_pixels().astype("f4"))),
    "int64": (".npy", lambda: _npy(_pixels().astype("i8"))),
    "five dimensions": (".npy", lambda: _npy(_pixels()[..., None])),
    "a record type": (".npy", lambda: _npy(np.zeros(4, dtype=[("a", "u1")]))),
    "cut": (".npz", lambda: _arrays(images=_pixels(), labels=np.arange(12))[:-200]),
    "half": (".npz", lambda: _arrays(images=_pixels(), labels=np.arange(12))[:9000]),
    "a wrong checksum": (".npz", lambda: spoilt(_arrays(images=_pixels(), labels=np.arange(12)))),
    "no images": (".npz", lambda: _arrays(pictures=_pixels())),
    "labels of another length": (".npz", lambda: _arrays(images=_pixels(), labels=np.arange(11))),
    "labels of floats": (".npz", lambda: _arrays(images=_pixels(), labels=np.arange(12) / 2)),
    "labels with NaN": (".npz", lambda: _arrays(images=_pixels(), labels=np.full(12, np.nan))),
    "labels of objects": (
        ".npz",
        lambda: _npz({"images": _npy(_pixels()), "labels": _npy(np.zeros(12, "u8"), descr="|O")}),
    ),
    "200 TiB in an archive": (".npz", lambda: _npz({"images": _npy(_pixels(), shape=(2**36, 32, 32, 3))})),
    "a bomb": (
        ".npz",
        lambda: _npz(
            {"images": _npy(np.zeros((1, 1, 1, 3), "u1"), shape=(2**24, 16, 16, 3)) + bytes(2**29)},
            zipfile.ZIP_DEFLATED,
        ),
    ),
    "an archive without arrays": (".npz", lambda: _npz({})),
    "text": (".npz", lambda: b"hello"),
    "a compression that is unknown": (
        ".npz",
        lambda: _arrays(images=_pixels()).replace(b"\x14\0\0\0\0\0", b"\x14\0\0\0\x63\0"),
    ),
}


def _array(place: Place, suffix: str, build: Callable[[], bytes]) -> None:
    """Give a wrong file of arrays to scan and a run. Both must refuse it by its name."""
    (place.folder / f"a{suffix}").write_bytes(build())
    refused(place.bt("scan", f"a{suffix}", "-o", "s", limit=30), f"a{suffix}")
    changes = (f"data.train=a{suffix}", "data.val=null", "run.output_dir=run")
    refused(place.bt("pretrain", place.recipe, *changes, limit=30), f"a{suffix}", "data.train")
    right(not (place.folder / "run").exists(), "a run was started")


def _good_array(place: Place, suffix: str, build: Callable[[Any], bytes]) -> None:
    """Write the same arrays in another form. They must be read correctly."""
    pixels = _pixels()
    (place.folder / f"a{suffix}").write_bytes(build(pixels))

    def read() -> Any:
        from dali_pipelines.sources import open_source

        source = open_source(f"a{suffix}")
        return np.stack([source.read(index) for index in range(len(source))])

    result = place.call(read)
    helpful(not raises(result), result.value if isinstance(result.value, Raised) else "")
    right(np.array_equal(result.value, pixels), "other pixels")


def _fortran(pixels: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asfortranarray(pixels))
    return out.getvalue()


_GOOD_ARRAYS: dict[str, tuple[str, Callable[[Any], bytes]]] = {
    "Fortran's order, which is right": (".npy", _fortran),
    "compressed, which is right": (".npz", lambda p: _npz({"images": _npy(p)}, zipfile.ZIP_DEFLATED)),
    "LZMA, which is right": (".npz", lambda p: _npz({"images": _npy(p)}, zipfile.ZIP_LZMA)),
    "more arrays, which is right": (".npz", lambda p: _arrays(images=p, labels=np.arange(12) % 3, extra=np.zeros(3))),
}


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    found = []
    for name, case in _ARRAYS.items():
        row = "B5" if any(word in name for word in ("TiB", "bomb", "beyond 64", "deep")) else "D10"
        found += tries(row, {f"arrays: {name}": case}, _array)
    return found + tries("D10", {f"arrays: {name}": case for name, case in _GOOD_ARRAYS.items()}, _good_array)
