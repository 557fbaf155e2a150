"""Files of arrays: damaged ones, and ones whose headers claim what is not there."""

from __future__ import annotations

import io
import resource
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dali_pipelines.sources import array_source, open_source

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(6) % 3
WITHIN = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    content = header.encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(content))
    return b"\x93NUMPY" + bytes(version) + length + content + data


def header(shape: object, descr: object = "|u1", order: object = False) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {order!r}, 'shape': {shape!r}, }}\n"


def npz(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def saved(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


LIES = {
    "200 TiB": header((2 * 10**11, 32, 32, 1)),
    "more than int64": header((10**30, 8, 8, 3)),
    "negative": header((-6, 8, 8, 3)),
    "two negatives": header((-6, -8, 8, 3)),
    "one image more": header((7, 8, 8, 3)),
    "one image less": header((5, 8, 8, 3)),
    "no tuple": header([6, 8, 8, 3]),
    "floats": header((6.0, 8, 8, 3)),
    "objects": header((6, 8, 8, 3), "|O"),
    "a structure": header((6, 8, 8, 3), [("x", "|u1"), ("y", "|O")]),
    "a type of 10^9 bytes": header((6, 8, 8, 3), "|V1000000000"),
    "no type": header((6, 8, 8, 3), "nonsense"),
    "code": "__import__('os').system('true')\n",
    "brackets": "[" * 9000 + "\n",
    "empty": "",
    "nothing in it": header((0, 8, 8, 3)),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("kind", ["npy", "npz", "deflated", "version 2"])
def test_a_header_that_lies_is_named_before_memory_is_taken(tmp_path: Path, lie: str, kind: str) -> None:
    content = npy(LIES[lie], IMAGES.tobytes(), (2, 0) if kind == "version 2" else (1, 0))
    path = tmp_path / f"x.{'npz' if kind in ('npz', 'deflated') else 'npy'}"
    compression = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
    path.write_bytes(npz({"images.npy": content}, compression) if path.suffix == ".npz" else content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=str(path)) as error:
        open_source(path)
    assert len(str(error.value)) < 700
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_an_entry_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    (tmp_path / "x.npz").write_bytes(saved(images=IMAGES))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": 1000}))
    with pytest.raises(ValueError, match=r"x\.npz: .*images\.npy has 1280 bytes, and 1000 bytes of memory are free"):
        open_source(tmp_path / "x.npz")


def test_what_is_no_array_is_named(tmp_path: Path) -> None:
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("images.npy", npy(header(IMAGES.shape), IMAGES.tobytes()))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("images.npy", npy(header(IMAGES.shape), IMAGES.tobytes()))
    whole = saved(images=IMAGES, labels=LABELS)
    encrypted = bytearray(whole)
    encrypted[whole.index(b"PK\x01\x02") + 8] |= 1
    for content, rule in (
        (b"", "not a file of arrays"),
        (b"\x80\x04N.", "not a file of arrays"),
        (b"PK\x05\x06" + bytes(18), "it has no arrays, and must have the array images"),
        (twice.getvalue(), "two of its arrays have the same name"),
        (bytes(encrypted), "not a file of arrays, or damaged"),
        (saved(**{"a\n\x1b[1m": IMAGES}), r"it has 'a\\n\\x1b\[1m', and must have the array images"),
        (saved(images=np.array([{}])), "Python objects"),
        (saved(images=IMAGES, labels=LABELS.astype(object)), "Python objects"),
        (saved(images=IMAGES, labels=LABELS[:5]), r"labels: shape \(5,\)"),
        (saved(images=IMAGES, labels=LABELS, classes=np.array(["a", "b"])), "labels: 0 to 2 must be indices of the 2"),
        (saved(images=IMAGES, labels=LABELS, classes=np.array(["a", "b", "a"])), "classes: has 'a' twice"),
        (saved(images=IMAGES, labels=LABELS, classes=np.arange(3)), r"classes: shape \(3,\) of int64 is not allowed"),
        (saved(images=IMAGES, labels=LABELS, classes=np.array("abc")), r"classes: shape \(\) of <U3 is not allowed"),
    ):
        path = tmp_path / "x.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\.npz: {rule}|x\.npz: .*{rule}"):
            open_source(path)


def test_other_arrays_of_a_file_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(saved(images=IMAGES, labels=LABELS, ids=np.array([{}]), text=np.array(["a"])))
    assert open_source(tmp_path / "x.npz").labels.tolist() == LABELS.tolist()


def test_classes_name_the_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=LABELS, classes=np.array(["cat", "dog", "eel", "fox"]))
    source = open_source(tmp_path / "x.npz")
    assert source.classes == ("cat", "dog", "eel", "fox")
    assert source.labels.tolist() == LABELS.tolist()
    assert source.fingerprint == array_source(IMAGES, LABELS).fingerprint
    np.savez(tmp_path / "x.npz", images=IMAGES, classes=np.array(["cat", "dog"]))
    assert not open_source(tmp_path / "x.npz").has_labels


def test_fortran_order_and_compression_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(IMAGES))
    np.savez_compressed(tmp_path / "x.npz", images=np.asfortranarray(IMAGES))
    for name in ("x.npy", "x.npz"):
        np.testing.assert_array_equal(open_source(tmp_path / name).read(4), IMAGES[4])
    assert open_source(tmp_path / "x.npz").fingerprint == array_source(IMAGES).fingerprint


@pytest.mark.parametrize("shape", [(9, 3, 32, 32), (9, 1, 28, 28), (9, 3, 5, 7), (9, 4, 64, 48), (9, 13, 64, 64)])
def test_channels_that_come_first_are_refused_with_the_remedy(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=r"x\.npz: images: .*use images\.transpose\(0, 2, 3, 1\)"):
        open_source(tmp_path / "x.npz")
    assert len(array_source(np.zeros(shape, np.uint8).transpose(0, 2, 3, 1))) == 9


@pytest.mark.parametrize(
    "shape", [(2, 8, 64, 3), (2, 3, 4, 3), (2, 64, 64, 13), (2, 48, 64, 6), (2, 32, 32, 64), (2, 1, 9, 3)]
)
def test_images_of_few_rows_or_many_channels_are_images(shape: tuple[int, ...]) -> None:
    assert len(array_source(np.zeros(shape, np.uint8))) == 2


def read_or_refused(path: Path, content: bytes) -> None:
    """Either all that was written, or an error that names the file."""
    path.write_bytes(content)
    try:
        source = open_source(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(np.stack([source.read(index) for index in range(len(source))]), IMAGES)
        assert source.labels.tolist() == (LABELS.tolist() if path.suffix == ".npz" else [-1] * 6)


@given(data=st.data(), compressed=st.booleans())
@WITHIN
def test_a_damaged_npz_is_whole_or_refused(tmp_path: Path, data: st.DataObject, compressed: bool) -> None:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, images=IMAGES, labels=LABELS)
    content = bytearray(stream.getvalue())
    if data.draw(st.booleans(), "is cut"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        # Damage of the directory at the end is rarer than of the data, and worse.
        place = st.integers(0, len(content) - 1) | st.integers(len(content) - 250, len(content) - 1)
        content[data.draw(place)] ^= data.draw(st.integers(1, 255))
    read_or_refused(tmp_path / "x.npz", bytes(content))


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@given(data=st.data())
@WITHIN
def test_a_damaged_npy_is_whole_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(npy(header(IMAGES.shape), IMAGES.tobytes()))
    begin = len(content) - IMAGES.nbytes
    if data.draw(st.booleans(), "is cut"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        # Of the data there is no checksum.
        content[data.draw(st.integers(0, begin - 1))] ^= data.draw(st.integers(1, 255))
    read_or_refused(tmp_path / "x.npy", bytes(content))


@given(
    content=st.binary(max_size=200),
    name=st.sampled_from(["x.npz", "x.npy"]),
    begin=st.sampled_from([b"", b"PK\x03\x04"]),
)
@example(content=b"", name="x.npy", begin=b"\x93NUMPY")
@WITHIN
def test_any_bytes_are_refused_by_name(tmp_path: Path, content: bytes, name: str, begin: bytes) -> None:
    (tmp_path / name).write_bytes(begin + content)
    with pytest.raises(ValueError, match=name):
        open_source(tmp_path / name)


@given(
    shape=st.lists(st.integers(-(2**70), 2**70) | st.integers(-2, 300), max_size=6).map(tuple),
    descr=st.sampled_from(
        ["|u1", "|i1", "<f8", "|O", "|V0", "|S0", "<U9999999", "|V99999999999", "<M8[ns]", 7, None, ("|u1",)]
    ),
    order=st.sampled_from([False, True, 1, "x"]),
    size=st.integers(0, 2000),
)
@WITHIN
def test_any_header_is_read_or_refused(
    tmp_path: Path, shape: tuple[int, ...], descr: object, order: object, size: int
) -> None:
    (tmp_path / "x.npy").write_bytes(npy(header(shape, descr, order), bytes(size)))
    try:
        source = open_source(tmp_path / "x.npy")
    except ValueError as error:
        assert "x.npy" in str(error)  # noqa: PT017
    else:
        assert sum(source.read(index)[..., :1].size for index in range(len(source))) <= size
