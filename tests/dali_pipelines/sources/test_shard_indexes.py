"""Shards with an index next to them: no header is read, and an index that is not theirs is not used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dali_pipelines import open_source, tar_shards
from dali_pipelines.sources import ImageSource
from dali_pipelines.storage.options import Storage
from tests.tar_files import write_shard
from tests.web import Nginx, nginx

NOTHING = Storage(cache_gib=0)
CLASSES = ("dog", "cat")


def write_index(shard: Path, images: list[tuple[str, int, int]]) -> None:
    """Write the index of a shard as DALI's wds2idx does."""
    lines = [f"{name.partition('.')[2]} {offset} {size} {name}" for name, offset, size in images]
    shard.with_suffix(".idx").write_text("\n".join([f"v1.2 {len(lines)}", *lines, ""]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of three images with a class's number in a .cls member, their indexes, and the lists of labels."""
    root = tmp_path / "shards"
    root.mkdir()
    rows = ["name,label,source"]
    for number in range(2):
        members: dict[str, bytes] = {}
        for index in range(3 * number, 3 * number + 3):
            members |= {f"{index:09}.jpg": bytes([index]) * 3000, f"{index:09}.cls": str(index % 2).encode()}
            rows.append(f"shard-{number:05}.tar/{index:09}.jpg,{CLASSES[index % 2]},x/{index}.jpg")
        write_shard(root / f"shard-{number:05}.tar", members)
    local = tar_shards(f"{root}/*.tar")
    for number in range(2):
        mine = [index for index in range(6) if index // 3 == number]
        images = [
            (local.names[index].rpartition("/")[2], int(local._offsets[index]), int(local._sizes[index]))  # type: ignore[union-attr]
            for index in mine
        ]
        write_index(root / f"shard-{number:05}.tar", images)
    (root / "labels.csv").write_bytes("\r\n".join([*rows, ""]).encode())
    (root / "classes.txt").write_text("\n".join([*CLASSES, ""]))
    return root


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nginx]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    with nginx(folder, tmp_path / "nginx") as running:
        yield running


def opened(server: Nginx) -> ImageSource:
    return open_source(f"{server.url}/shard-0000{{0..1}}.tar", storage=NOTHING)


def named(source: ImageSource) -> list[tuple[str, str, bytes]]:
    return [
        (name, source.classes[label] if source.classes else "", source.read(index).tobytes())
        for index, (name, label) in enumerate(zip(source.names, source.labels.tolist()))
    ]


EXPECTED = [
    (f"shard-{index // 3:05}.tar/{index:09}.jpg", CLASSES[index % 2], bytes([index]) * 3000) for index in range(6)
]


def test_only_the_indexes_are_read(server: Nginx) -> None:
    source = opened(server)
    assert server.sent_bytes(".tar") < 2000, "a byte and a header of each shard"
    assert source.classes == CLASSES, "in the order of classes.txt"
    assert named(source) == EXPECTED
    before = len(server.requests(".idx"))
    assert opened(server).fingerprint == source.fingerprint
    assert len(server.requests(".idx")) == before, "the index is kept"


def test_shards_without_an_index_are_read_once(folder: Path, server: Nginx, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "shard-00001.idx").unlink()
    source = opened(server)
    assert "because there is no shard-00001.idx" in caplog.text
    assert source.classes == CLASSES, "numbers of .cls members are lines of classes.txt"
    assert named(source) == EXPECTED
    before = server.sent_bytes()
    opened(server)
    assert server.sent_bytes() - before < 100, "the index is kept"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("v1.2", "v1.1"), "is not an index of version v1.2"),
        (lambda text: text.replace("v1.2 3", "v1.2 4"), "is not an index of version v1.2"),
        (lambda text: text.replace("000000002.jpg", "a b.jpg"), "has a name with a space, or is damaged"),
        (lambda text: text.replace(" 3000 000000002", " 2999 000000002"), "is not the index of its shard"),
        (lambda text: text.replace("000000002", "000000009"), "is not the index of its shard"),
        (lambda text: text.replace(" 3000 000000002", " 99999 000000002"), "is not the index of its shard"),
        (lambda text: "", "is not an index of version v1.2"),
    ],
)
def test_an_index_that_is_wrong_is_not_used(
    folder: Path, server: Nginx, caplog: pytest.LogCaptureFixture, change: object, reason: str
) -> None:
    path = folder / "shard-00000.idx"
    path.write_text(change(path.read_text()))  # type: ignore[operator]
    assert named(opened(server)) == EXPECTED
    assert reason in caplog.text


def test_an_index_with_classes_needs_their_names(folder: Path, server: Nginx, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / "shard-00000.idx"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], f"{lines[1]} cls 4096 1 000000000.cls", *lines[2:], ""]))
    (folder / "labels.csv").unlink()
    assert named(opened(server)) == EXPECTED
    assert "there is no labels.csv next to the shards" in caplog.text


def test_labels_that_classes_txt_lacks_are_refused(folder: Path, server: Nginx) -> None:
    (folder / "classes.txt").write_text("dog\nbird\n")
    with pytest.raises(ValueError, match=r"classes.txt: has 2 classes, and none is 'cat'"):
        opened(server)


def test_a_changed_list_of_labels_is_read_again(folder: Path, server: Nginx) -> None:
    before = opened(server)
    labels = folder / "labels.csv"
    labels.write_text(labels.read_text().replace(",cat,", ",dog,"))
    after = opened(server)
    assert set(after.labels.tolist()) == {0}
    assert after.fingerprint != before.fingerprint
