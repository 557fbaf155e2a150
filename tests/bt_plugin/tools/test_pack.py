"""`pack`: the shards are the source, for every reader."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bt_plugin.errors import UserError
from bt_plugin.tools.pack import pack
from bt_plugin.tools.packed_image import Conversion
from dali_pipelines import Backend, TwoViewLoader, array_source
from dali_pipelines.sources import open_source
from tests.bt_plugin.tools.packs import contents, files_of, noise, packed
from tests.conftest import write_image
from tests.dali_pipelines.float_images import FloatImages, scenes


def test_the_shards_are_the_source(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert packed(odd, tmp_path / "out", "--shards", 4) == 0
    assert f'data.train="{tmp_path}/out/*.tar"' in capsys.readouterr().out
    source, shards = open_source(odd), open_source(f"{tmp_path}/out/*.tar")
    assert contents(shards) == contents(source)
    assert (shards.classes, shards.labels.tolist()) == (source.classes, source.labels.tolist())
    assert shards.classes == ("a é", "b é", "c é")
    with open(tmp_path / "out" / "labels.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "label", "source"]
    assert [row[0] for row in rows[1:]] == list(shards.names)
    assert [row[1] for row in rows[1:]] == [source.classes[label] for label in source.labels]
    assert [row[2] for row in rows[1:]] == list(source.names)
    # By content, not by the source's name.
    assert [name.rpartition(".")[2] for name in shards.names][-3:] == ["png", "webp", "jpg"]
    assert [len(open_source(tmp_path / "out" / f"shard-0000{n}.tar")) for n in range(4)] == [2, 2, 2, 3]


def test_batches_are_those_of_the_folder(small_data: Path, tmp_path: Path) -> None:
    assert packed(small_data / "train", tmp_path / "out", "--shards", 3) == 0
    loaders = [
        TwoViewLoader(source, 6, "barlow_twins_32", backend=Backend("native", device="cpu"), seed=3)
        for source in (str(small_data / "train"), f"{tmp_path}/out/*.tar")
    ]
    for ours, theirs in zip(*loaders, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.views, theirs.views, strict=True))
        assert torch.equal(ours.targets, theirs.targets)


def test_classes_keep_their_order_and_those_without_images(tmp_path: Path) -> None:
    """Sorting their names would change all class numbers."""
    source = array_source(noise(0, 6, 8, 8, 3), [2, 0, 3, 2, 0, 3], ["zebra", "unseen", " ant\t", "10"])
    pack(source, tmp_path / "out", shards=2, conversion=Conversion(), num_threads=2, max_bad=0)
    shards = open_source(f"{tmp_path}/out/*.tar")
    assert shards.classes == source.classes
    assert shards.labels.tolist() == source.labels.tolist()


def test_names_that_are_not_utf_8(odd: Path, tmp_path: Path) -> None:
    os.rename(os.fsencode(odd / "a é"), os.fsencode(odd) + b"/\xff, b")
    broken = os.fsencode(odd) + b"/\xff, b/im.4.bmp"
    with open(broken, "wb"):
        pass
    assert packed(odd, tmp_path / "out", "--shards", 1) == 1
    assert open_source(f"{tmp_path}/out/*.tar").classes == open_source(odd).classes
    assert broken in (tmp_path / "out" / "bad.csv").read_bytes()
    assert b'000000006.tif,"\xff, b","\xff, b/im.3.tif"' in (tmp_path / "out" / "labels.csv").read_bytes()


def test_without_labels(odd: Path, tmp_path: Path) -> None:
    write_image(odd / "top.png", noise(0, 4, 4, 3))
    assert packed(odd, tmp_path / "out", "--shards", 1) == 0
    shards = open_source(tmp_path / "out" / "shard-00000.tar")
    assert not shards.has_labels
    assert (tmp_path / "out" / "labels.csv").read_text().startswith("name,source\n")
    assert not (tmp_path / "out" / "classes.txt").exists()


def test_an_array_becomes_lossless_files(tmp_path: Path) -> None:
    pixels = noise(0, 5, 9, 7, 3)
    np.savez(tmp_path / "set.npz", images=pixels, labels=[7, 7, 3, 3, 11])
    assert packed(tmp_path / "set.npz", tmp_path / "out", "--shards", 2) == 0
    shards = open_source(f"{tmp_path}/out/*.tar")
    read = [np.asarray(Image.open(tmp_path / "x.png")) for content in contents(shards) if _saved(tmp_path, content)]
    assert np.array_equal(read, pixels)
    assert [shards.classes[label] for label in shards.labels] == ["7", "7", "3", "3", "11"]


def _saved(folder: Path, content: bytes) -> bool:
    assert content[:4] == b"\x89PNG"
    return bool((folder / "x.png").write_bytes(content))


def test_shards_are_packed_again(odd: Path, tmp_path: Path) -> None:
    """From many small shards to few."""
    assert packed(odd, tmp_path / "first", "--shards", 5) == 0
    assert packed(f"{tmp_path}/first/*.tar", tmp_path / "second", "--shards", 2) == 0
    assert packed(odd, tmp_path / "direct", "--shards", 2) == 0
    ours, theirs = files_of(tmp_path / "second"), files_of(tmp_path / "direct")
    assert ours.pop("labels.csv") != theirs.pop("labels.csv"), "the names in the source differ"
    assert ours == theirs


@pytest.mark.parametrize("options", [[], ["--short-side", "16"]])
def test_bytes_do_not_depend_on_the_threads(odd: Path, tmp_path: Path, options: list[str]) -> None:
    for threads in (1, 2, 7):
        assert packed(odd, tmp_path / str(threads), "--shards", 2, "--num-threads", threads, *options) == 0
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "7")


def test_bad_images_are_left_out_and_listed(
    odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (odd / "a é" / "im.3.tif").read_bytes()
    (odd / "a é" / "im.3.tif").write_bytes(b"not an image")
    (odd / "b é" / "im.7.jpg").write_bytes((odd / "b é" / "im.7.jpg").read_bytes()[:500])
    (odd / "c é" / "im.1.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert packed(odd, tmp_path / "out", "--shards", 2, "--max-bad", 2) == 2
    told = capsys.readouterr().err
    assert "Now 3 of 9 images cannot be read, and --max-bad is 2" in told
    assert packed(odd, tmp_path / "out", "--shards", 2, "--max-bad", 3) == 1
    assert "3 images cannot be read, and are left out" in capsys.readouterr().out
    with open(tmp_path / "out" / "bad.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["place", "reason"]
    assert [row[0] for row in rows[1:]] == [
        f"{odd}/{name}" for name in ("a é/im.3.tif", "b é/im.7.jpg", "c é/im.1.png")
    ]
    assert [row[1].partition(":")[0] for row in rows[1:]] == ["ValueError", "OSError", "ValueError"]
    shards = open_source(f"{tmp_path}/out/*.tar")
    assert [name.partition("/")[2][:9] for name in shards.names] == [f"{n:09}" for n in (1, 2, 3, 5, 7, 8)]
    # Again: the same summary. After a repair of one shard: without it.
    assert packed(odd, tmp_path / "out", "--shards", 2) == 1
    (odd / "a é" / "im.3.tif").write_bytes(whole)
    (tmp_path / "out" / "shard-00000.tar").unlink()
    assert packed(odd, tmp_path / "out", "--shards", 2) == 1
    assert (tmp_path / "out" / "bad.csv").read_text().count("\n") == 3
    assert len(open_source(f"{tmp_path}/out/*.tar")) == 7


def test_without_decoding_damaged_images_are_copied(odd: Path, tmp_path: Path) -> None:
    (odd / "b é" / "im.7.jpg").write_bytes((odd / "b é" / "im.7.jpg").read_bytes()[:500])
    (odd / "c é" / "im.1.png").write_bytes(b"no format")
    assert packed(odd, tmp_path / "out", "--shards", 2, "--no-decode") == 1
    assert "im.1.png" in (tmp_path / "out" / "bad.csv").read_text()
    assert (odd / "b é" / "im.7.jpg").read_bytes() in contents(open_source(f"{tmp_path}/out/*.tar"))


def test_a_shard_without_images_is_refused(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DALI's reader refuses its index."""
    for path in (odd / "a é").iterdir():
        path.write_bytes(b"x")
    assert packed(odd, tmp_path / "out", "--shards", 3) == 2
    assert "none of the 3 images of shard-00000.tar can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shards", "0"], "--shards: 0 is not allowed; it must be 1 or more"),
        (["--shards", "10"], "--shards: 10 is not allowed; it must be 1 to 9, the number of images"),
        (["--shards", "2", "--quality", "90"], "--quality: only images that are reduced are written anew"),
        (["--shards", "2", "--short-side", "9", "--quality", "101"], "--quality: 101 is not allowed"),
        (["--shards", "2", "--short-side", "0"], "--short-side: 0 is not allowed; it must be 1 to 16384"),
        (["--shards", "2", "--short-side", "9", "--no-decode"], "--no-decode: --short-side decodes all images"),
        (["--shards", "2", "--max-bad", "-1"], "--max-bad: -1 is not allowed"),
        (["--shards", "2", "--num-threads", "0"], "--num-threads: 0 is not allowed"),
    ],
)
def test_options_that_are_refused(
    odd: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert packed(odd, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sources_that_are_refused(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "five.npy", noise(0, 4, 8, 8, 5))
    assert packed(tmp_path / "five.npy", tmp_path / "out", "--shards", 2) == 2
    assert "its images have 5 channels, and the images of shards have three" in capsys.readouterr().err
    deep = FloatImages(scenes(2, channels=3))
    with pytest.raises(UserError, match="its images have more than 8 bits, and pixels are packed as PNG files"):
        pack(deep, tmp_path / "out", shards=1, conversion=Conversion(), num_threads=1, max_bad=0)
    (odd / "a é").rename(odd / "line\nbreak")
    assert packed(odd, tmp_path / "out", "--shards", 2) == 2
    assert r"the class 'line\nbreak' cannot be a line of classes.txt" in capsys.readouterr().err
    assert packed(tmp_path / "nowhere", tmp_path / "out", "--shards", 2) == 2
    assert "nowhere: does not exist" in capsys.readouterr().err


def test_a_label_that_is_missing(tmp_path: Path) -> None:
    source = array_source(noise(0, 2, 8, 8, 3), [0, 1])
    source.labels[1] = -1
    with pytest.raises(UserError, match="image 1 of the array has no label"):
        pack(source, tmp_path / "out", shards=1, conversion=Conversion(), num_threads=1, max_bad=0)
