"""Parquet files: those of the package datasets, and in the loaders compared with a folder of the same images."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from dali_pipelines import EvalLoader, TwoViewLoader, image_folder, open_source, parquet_files
from dali_pipelines.decoding.read_pixels import read_pixels
from dali_pipelines.errors import BadImageError, StorageError
from dali_pipelines.sources import FileSource, ParquetSource, index_cache, parquet_index, parquet_source
from dali_pipelines.views.params import EvalParams
from tests.dali_pipelines.conftest import SMALL, assert_same, chosen
from tests.parquet_files import write_columns, write_parquet, write_set

# Files that datasets 5.2 has written, of six images of 8 px in row groups of four.
WRITTEN = Path(__file__).parent / "written_by_datasets"


@pytest.fixture
def folder(small_data: Path) -> FileSource:
    return image_folder(small_data / "train")


@pytest.fixture
def pattern(folder: FileSource, tmp_path: Path) -> str:
    """The images of a folder in its order: 36 images in two files, with row groups of five."""
    return write_set(folder, tmp_path / "set", files=2, rows=5)


def test_what_datasets_writes() -> None:
    source = open_source(WRITTEN / "train-00000-of-00001.parquet")
    assert list(source.names) == [f"train-00000-of-00001.parquet/{row}" for row in range(6)]
    assert source.classes == ("cat", "dog", "bird")
    assert source.labels.tolist() == [0, 1, 2, 2, 1, 0]
    assert source.groups is not None
    assert source.groups.tolist() == [0, 4]
    assert [tuple(read_pixels(source, index, 64).shape) for index in range(6)] == [(8, 8, 3)] * 6
    theirs = parquet.read_table(WRITTEN / "train-00000-of-00001.parquet").column("image").to_pylist()
    assert [source.read(index).tobytes() for index in range(6)] == [each["bytes"] for each in theirs]


def test_names_labels_and_bytes(folder: FileSource, pattern: str) -> None:
    files = [f"{Path(pattern).parent}/train-{number:05}-of-00002.parquet" for number in range(2)]
    braces = pattern.replace("*", "{00000..00001}-of-00002")
    for paths in (pattern, braces, files):
        source = parquet_files(paths)  # type: ignore[arg-type]
        assert source.classes == folder.classes
        np.testing.assert_array_equal(source.labels, folder.labels)
        assert source.names[20] == "train-00001-of-00002.parquet/2"
        assert source.place(20) == f"{files[1]}, row 2"
        assert source.groups is not None
        assert source.groups.tolist() == [0, 5, 10, 15, 18, 23, 28, 33]
        for index in range(36):
            np.testing.assert_array_equal(source.read(index), folder.read(index))


@pytest.mark.usefixtures("each_backend")
def test_batches_are_those_of_the_files(folder: FileSource, pattern: str) -> None:
    """Also after a resume in the middle of an epoch, and in an evaluation."""
    source = open_source(pattern)
    of_files = list(TwoViewLoader(folder, 8, SMALL, backend=chosen()))
    first = TwoViewLoader(source, 8, SMALL, backend=chosen())
    batches = iter(first)
    of_parquet = [next(batches), next(batches)]
    second = TwoViewLoader(source, 8, SMALL, backend=chosen())
    second.load_state_dict(first.state_dict())
    name_of = dict(zip(source.names, folder.names))
    renamed = [
        batch._replace(filenames=[name_of[name] for name in batch.filenames]) for batch in [*of_parquet, *second]
    ]
    assert_same(renamed, of_files)
    params = EvalParams(resize_px=36, size_px=32)
    for ours, theirs in zip(*(EvalLoader(each, 10, params, backend=chosen()) for each in (source, folder))):
        assert (ours.images == theirs.images).all()
        assert (ours.targets == theirs.targets).all()


def test_the_byte_range_is_all_that_is_read_of_a_row_group(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int, int]] = []

    class Watched(BinaryIOWrapper):
        def readinto(self, buffer: Any) -> int:
            begin = self.file.tell()
            count: int = self.file.readinto(buffer)  # type: ignore[attr-defined]
            read.append((self.path, begin, begin + count))
            return count

    source = parquet_files(pattern)
    source.read(19)  # the footer of the second file
    monkeypatch.setattr(parquet_source, "open_table_file", Watched)
    source.read(24)
    group = source.group_of(24)
    path, offset, size = source.byte_range(group)
    assert read, "the file is read through open_table_file"
    assert {file for file, _, _ in read} == {path}
    assert min(begin for _, begin, _ in read) == offset
    assert max(end for _, _, end in read) == offset + size


class BinaryIOWrapper:
    """A file as pyarrow needs it."""

    closed = False

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: BinaryIO = parquet_index.open_table_file(path)

    def __enter__(self) -> BinaryIOWrapper:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise NotImplementedError

    def read(self, size: int = -1) -> bytes:
        content = bytearray(size)
        return bytes(content[: self.readinto(content)])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_storage_that_does_not_answer_is_no_bad_image(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(BinaryIOWrapper):
        def readinto(self, buffer: Any) -> int:
            raise StorageError("https://somewhere: no answer")

    source = parquet_files(pattern)
    source.read(0)
    monkeypatch.setattr(parquet_source, "open_table_file", Gone)
    with pytest.raises(StorageError, match="no answer"):
        read_pixels(source, 6, 10_000)
    monkeypatch.undo()
    assert source.read(6).size


def test_the_cache_is_bounded_and_decodes_once(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = parquet_source.decode_group

    def counted(file: Any, metadata: Any, number: int, leaf: str) -> Any:
        decoded.append(number)
        return decode(file, metadata, number, leaf)

    monkeypatch.setattr(parquet_source, "decode_group", counted)
    source = parquet_files(pattern)
    for index in range(36):
        source.read(index)
    assert decoded == [0, 1, 2, 3] * 2
    decoded.clear()
    for index in range(36):
        source.read(index)
    assert not decoded
    small = parquet_files(pattern, cache_gib=1e-9)
    for index in (0, 1, 5, 6, 0):
        small.read(index)
    assert decoded == [0, 1, 0], "only the last one is kept"


def test_a_window_of_the_kept_images_decodes_each_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    images = [random.bytes(1000) for _ in range(400)]
    write_parquet(tmp_path / "a.parquet", images, rows=10)
    decoded: list[int] = []
    decode = parquet_source.decode_group

    def counted(file: Any, metadata: Any, number: int, leaf: str) -> Any:
        decoded.append(number)
        return decode(file, metadata, number, leaf)

    monkeypatch.setattr(parquet_source, "decode_group", counted)
    source = parquet_files(tmp_path / "a.parquet", cache_gib=12 * 10_100 / 2**30)
    assert source.kept_images is not None
    assert 50 <= source.kept_images <= 110
    from dali_pipelines.orders import Order

    counts = {}
    for window in (source.kept_images // 10 * 10, None):
        for index in Order(source.parts, groups=source.groups, window=window).epoch(0).tolist():
            source.read(index)
        counts[window] = len(decoded)
        decoded.clear()
    *_, (_, of_permutation) = counts.items()
    assert min(counts.values()) == 40, "each of the 40 row groups once"
    assert of_permutation > 200


def test_bad_rows_are_bad_images(folder: FileSource, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = [folder.read(index).tobytes() for index in range(12)]
    images: list[bytes | None] = [*good[:4], None, b"", b"no image", *good[7:]]
    source = parquet_files(write_parquet(tmp_path / "a.parquet", images))
    for index, reason in ((4, "the image is null"), (5, "the file is empty"), (6, "not an image")):
        with pytest.raises(BadImageError, match=rf"a\.parquet, row {index}: .*{reason}"):
            read_pixels(source, index, 1_000_000)
    names = [name for batch in TwoViewLoader(source, 12, SMALL, backend=chosen()) for name in batch.filenames]
    assert not {f"a.parquet/{row}" for row in (4, 5, 6)}.intersection(names)
    assert "bad file 3 of at most 100" in caplog.text


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_damaged_page_leaves_the_rows_before_it(tmp_path: Path, compression: str) -> None:
    random = np.random.default_rng(0)
    images = [random.bytes(1000) for _ in range(100)]
    path = write_parquet(
        tmp_path / "a.parquet", images, rows=50, use_dictionary=False, data_page_size=8000, compression=compression,
        write_batch_size=1,
    )  # fmt: skip
    source = parquet_files(path)
    offset, size = source.byte_range(0)[1:]
    content = bytearray(path.read_bytes())
    content[offset + size // 2 : offset + size] = bytes([255]) * (size - size // 2)
    path.write_bytes(content)
    for index in (0, 10, *range(50, 100)):
        assert source.read(index).tobytes() == images[index]
    with pytest.raises(OSError, match="the row group is damaged: "):
        source.read(49)
    assert len(source._decoded._groups) == 1, "a damaged group is not kept"


@pytest.mark.parametrize("kept", [0, 3, 2000, -1])
def test_a_damaged_footer_is_named(tmp_path: Path, kept: int) -> None:
    path = write_parquet(tmp_path / "a.parquet", [b"x" * 1000] * 10, [0] * 10, classes=["only"])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a\.parquet: .*must be a whole parquet file"):
        open_source(path)


def test_files_of_another_set_are_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "1.parquet", [b"x"], [0], classes=["a", "b"])
    for second, reason in (
        ({"image": pa.array([b"x"])}, "whether the image is a struct differs"),
        ({"image": pa.array([1])}, r"none of the columns image \(int64\) has images"),
        ({"photo": pa.array([{"bytes": b"x"}])}, "the image column differs"),
        ({"image": pa.array([{"bytes": b"x"}])}, "the label column differs"),
        ({"image": pa.array([{"bytes": b"x"}]), "label": ["a"]}, "the type of the label differs"),
    ):
        write_columns(tmp_path / "2.parquet", **second)
        with pytest.raises(ValueError, match=rf"2\.parquet: {reason}"):
            open_source(f"{tmp_path}/*.parquet")
    write_parquet(tmp_path / "2.parquet", [b"x"], [0], classes=["b", "a"])
    with pytest.raises(
        ValueError, match=r"2\.parquet: the list of the classes' names differs from that of .*1\.parquet"
    ):
        open_source(f"{tmp_path}/*.parquet")


def test_what_has_no_images_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "paths.parquet", [None, None])
    with pytest.raises(ValueError, match=r"paths\.parquet: the column 'image' has no bytes, only paths"):
        open_source(tmp_path / "paths.parquet")
    write_parquet(tmp_path / "empty.parquet", [])
    with pytest.raises(ValueError, match=r"empty\.parquet: 1 file\(s\) have no rows"):
        open_source(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match=r"x-\*\.parquet: no file matches"):
        open_source(f"{tmp_path}/x-*.parquet")
    with pytest.raises(ValueError, match=r"nowhere\.parquet: does not exist"):
        open_source(tmp_path / "nowhere.parquet")
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(ValueError, match=r"pipe\.parquet: .*is a pipe"):
        open_source(tmp_path / "pipe.parquet")


def test_a_file_that_was_replaced_is_not_read(folder: FileSource, tmp_path: Path) -> None:
    images = [folder.read(index).tobytes() for index in range(4)]
    path = write_parquet(tmp_path / "a.parquet", images)
    source = parquet_files(path)
    write_parquet(path, images[::-1] * 2)
    with pytest.raises(OSError, match=r"a\.parquet has changed"):
        source.read(0)


def test_the_index_is_kept_until_a_file_changes(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "WORTH_KEEPING_S", 0)
    files = sorted(Path(pattern).parent.iterdir())
    for path in files:
        os.utime(path, (1_600_000_000, 1_600_000_000))
    first = parquet_files(pattern)
    monkeypatch.setattr(parquet_index, "open_table_file", None)
    second = parquet_files(pattern)
    assert second.fingerprint == first.fingerprint
    assert list(second.names) == list(first.names)
    np.testing.assert_array_equal(second.read(20), first.read(20))
    with pytest.raises(TypeError):
        parquet_files(f"{pattern}?label=")
    os.utime(files[0])
    with pytest.raises(TypeError):
        parquet_files(pattern)


def test_the_fingerprint_follows_names_labels_and_sizes(tmp_path: Path) -> None:
    def fingerprint(name: str, images: list[bytes], labels: list[int]) -> str:
        return parquet_files(write_parquet(tmp_path / name, images, labels, classes=["a", "b"])).fingerprint  # type: ignore[arg-type]

    first = fingerprint("a/x.parquet", [b"1", b"2"], [0, 1])
    assert fingerprint("b/x.parquet", [b"1", b"2"], [0, 1]) == first
    assert fingerprint("b/x.parquet", [b"1", b"2"], [1, 1]) != first
    assert fingerprint("b/x.parquet", [b"1", b"2345"], [0, 1]) != first
    assert fingerprint("b/y.parquet", [b"1", b"2"], [0, 1]) != first


def test_pyarrow_is_an_extra(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"needs pyarrow.*pip install 'bt-plugin\[parquet\]'"):
        open_source(pattern)


def test_arguments_are_checked(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"cache_gib: 0 is not allowed"):
        parquet_files(pattern, cache_gib=0)
    with pytest.raises(ValueError, match="no pattern: is not allowed"):
        parquet_files([])
    with pytest.raises(ValueError, match=r"the same \?image=COLUMN"):
        parquet_files([pattern, f"{pattern}?label="])


def test_a_folder_of_files_of_one_split(folder: FileSource, pattern: str) -> None:
    data = Path(pattern).parent
    source = open_source(data)
    assert isinstance(source, ParquetSource)
    assert len(source) == len(folder)
    assert not open_source(f"{data}?image=image&label=").has_labels
    shutil.copy(data / "train-00000-of-00002.parquet", data / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"2 splits; give .*/test-\*\.parquet or .*/train-\*\.parquet, or"):
        open_source(data)
    assert len(open_source(f"{data}/test-*.parquet")) == 18
    assert len(open_source(f"{data}/*.parquet")) == 54
