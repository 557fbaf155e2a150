"""Tar shards: of WebDataset's writer, and in the loaders compared with a folder of the same files."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from dali_pipelines import TwoViewLoader, image_folder, open_source, tar_shards
from dali_pipelines.sources import FileSource, TarSource, index_cache
from tests.dali_pipelines.conftest import SMALL, assert_same, chosen
from tests.tar_files import write_shard


@pytest.fixture
def folder(small_data: Path) -> FileSource:
    return image_folder(small_data / "train")


@pytest.fixture
def shards(folder: FileSource, tmp_path: Path) -> list[Path]:
    """The images of a folder in its order, ten a shard; the last has six."""
    paths = []
    for first in range(0, len(folder), 10):
        members: dict[str, bytes] = {}
        for index in range(first, min(first + 10, len(folder))):
            key = f"./sample.dir/{index:06}"
            # The label may come before the image, and other members between.
            members |= {f"{key}.cls": str(folder.labels[index]).encode(), f"{key}.json": b"{}"}
            members[f"{key}.jpg"] = folder.read(index).tobytes()
        paths.append(write_shard(tmp_path / f"train-{first // 10:03}.tar", members))
    return paths


def test_names_labels_and_bytes(folder: FileSource, shards: list[Path], tmp_path: Path) -> None:
    for pattern in (f"{tmp_path}/train-{{000..003}}.tar", f"{tmp_path}/train-*.tar", shards):
        source = tar_shards(pattern)  # type: ignore[arg-type]
        assert len(source) == 36
        assert source.names[10] == "train-001.tar/sample.dir/000010.jpg"
        assert source.classes == ("0", "1", "2")
        np.testing.assert_array_equal(source.labels, folder.labels)
        for index in range(36):
            np.testing.assert_array_equal(source.read(index), folder.read(index))


@pytest.mark.usefixtures("each_backend")
def test_batches_are_those_of_the_files(folder: FileSource, shards: list[Path], tmp_path: Path) -> None:
    source = open_source(f"{tmp_path}/train-{{000..003}}.tar")
    of_files = list(TwoViewLoader(folder, 8, SMALL, backend=chosen()))
    of_tars = list(TwoViewLoader(source, 8, SMALL, backend=chosen()))
    name_of = dict(zip(source.names, folder.names))
    renamed = [batch._replace(filenames=[name_of[name] for name in batch.filenames]) for batch in of_tars]
    assert_same(renamed, of_files)


@pytest.mark.usefixtures("each_backend")
def test_a_shard_that_lost_its_end_is_named(
    folder: FileSource, shards: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    source = tar_shards(shards)
    with open(shards[3], "r+b") as file:
        file.truncate(8_000)
    names = [name for batch in TwoViewLoader(source, 12, SMALL, backend=chosen()) for name in batch.filenames]
    assert len(names) == 36
    assert sum(name.startswith("train-003") for name in names) < 6
    assert "train-003.tar, member sample.dir/0000" in caplog.text
    assert "the file ends after" in caplog.text


def test_what_webdataset_writes(folder: FileSource, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(f"{tmp_path}/wds-%06d.tar", maxcount=5, verbose=0) as writer:
        for index in range(12):
            sample = {
                "__key__": f"sample{index}",
                "jpg": folder.read(index).tobytes(),
                "cls": int(folder.labels[index]),
            }
            writer.write(sample)
    source = tar_shards(f"{tmp_path}/wds-{{000000..000002}}.tar")
    theirs = list(webdataset.WebDataset(f"{tmp_path}/wds-{{000000..000002}}.tar", shardshuffle=False))
    assert [source.read(index).tobytes() for index in range(12)] == [sample["jpg"] for sample in theirs]
    assert [source.classes[label] for label in source.labels] == [sample["cls"].decode() for sample in theirs]


def test_many_shards_are_read_by_several_processes(tmp_path: Path) -> None:
    """And a bad one among them is named."""
    for number in range(20):
        members = {f"{each}.jpg": bytes(100 * number + each) for each in range(number % 4)}
        labels = {f"{each}.cls": f"ä{number % 3}".encode() for each in range(number % 4)}
        write_shard(tmp_path / f"{number:02}.tar", members | labels)
    source = tar_shards(f"{tmp_path}/{{00..19}}.tar")
    expected = [(number, each) for number in range(20) for each in range(number % 4)]
    assert list(source.names) == [f"{number:02}.tar/{each}.jpg" for number, each in expected]
    assert [source.read(index).size for index in range(len(source))] == [
        100 * number + each for number, each in expected
    ]
    assert [source.classes[label] for label in source.labels] == [f"ä{number % 3}" for number, _ in expected]
    (tmp_path / "13.tar").write_text("not a tar file")
    with pytest.raises(ValueError, match=r"13\.tar: .*whole, uncompressed tar"):
        tar_shards(f"{tmp_path}/*.tar")


def test_labels_are_optional_and_every_suffix_counts(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", {"1.left.PNG": b"x", "1.right.webp": b"y", "1.txt": b"z", "__1.jpg/": b""})
    source = tar_shards(path)
    assert list(source.names) == ["a.tar/1.left.PNG", "a.tar/1.right.webp"]
    assert not source.has_labels


def test_the_fingerprint_follows_shards_and_sizes(tmp_path: Path) -> None:
    def fingerprint(name: str, content: bytes) -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        return tar_shards(write_shard(tmp_path / name, {"1.jpg": content})).fingerprint

    assert fingerprint("a/x.tar", b"1") == fingerprint("b/x.tar", b"2")
    assert fingerprint("a/y.tar", b"1") != fingerprint("a/x.tar", b"1") != fingerprint("b/x.tar", b"12")


def test_shards_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_shard(tmp_path / folder / "x.tar", {"1.jpg": folder.encode()})
    source = tar_shards(f"{tmp_path}/{{a,b}}/x.tar")
    assert list(source.names) == ["a/x.tar/1.jpg", "b/x.tar/1.jpg"]
    assert source.place(1) == f"{tmp_path}/b/x.tar, member 1.jpg"


def test_the_index_is_kept_until_a_shard_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "WORTH_KEEPING_S", 0)
    path = write_shard(tmp_path / "a.tar", {"1.jpg": b"x", "1.cls": b"7"})
    os.utime(path, (1_600_000_000, 1_600_000_000))
    first = tar_shards(path)
    opened = tarfile.open
    monkeypatch.setattr(tarfile, "open", None)
    kept = tar_shards(path)
    assert (kept.fingerprint, kept.classes, kept.read(0).tobytes()) == (first.fingerprint, ("7",), b"x")
    monkeypatch.setattr(tarfile, "open", opened)
    write_shard(path, {"1.jpg": b"x", "2.jpg": b"y"})
    assert len(tar_shards(path)) == 2


def whole(tmp_path: Path) -> bytes:
    return write_shard(tmp_path / "whole.tar", {"1.jpg": b"x" * 5000, "2.jpg": b"x" * 5000}).read_bytes()


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        ({"1.txt": b""}, r"1 shard\(s\) have no images; members that end in .jpg"),
        ({"1.jpg": b"", "1.cls": b"3", "2.jpg": b""}, r"x.tar/2.jpg has no .cls member, and other images have"),
        ({"1.jpg": b"", "1.cls": b"\xff\xfe"}, "'1.cls' is not UTF-8"),
    ],
)
def test_a_bad_shard_is_named(tmp_path: Path, members: dict[str, bytes], rule: str) -> None:
    write_shard(tmp_path / "x.tar", members)
    with pytest.raises(ValueError, match=f"x.tar.*{rule}" if not rule.startswith("x") else rule):
        open_source(tmp_path / "x.tar")


def test_what_is_no_shard_is_named(tmp_path: Path) -> None:
    content = whole(tmp_path)
    (tmp_path / "cut.tar").write_bytes(content[:4000])
    (tmp_path / "text.tar").write_text("not a tar file" * 100)
    write_shard(tmp_path / "gz.tar", {"1.jpg": b""}, "w:gz")
    for name in ("cut", "text", "gz"):
        with pytest.raises(ValueError, match=rf"{name}\.tar: .*whole, uncompressed tar"):
            tar_shards(tmp_path / f"{name}.tar")
    with pytest.raises(ValueError, match=r"a-1\.tar: does not exist; correct .*a-\{1\.\.2\}\.tar"):
        tar_shards(f"{tmp_path}/a-{{1..2}}.tar")
    with pytest.raises(ValueError, match=r"b-\*\.tar: no shard matches"):
        tar_shards(f"{tmp_path}/b-*.tar")


def test_a_source_knows_its_kind(tmp_path: Path) -> None:
    assert isinstance(open_source(write_shard(tmp_path / "a.tar", {"1.jpg": b""})), TarSource)
