"""classes.txt next to shards names the classes whose numbers the shards have."""

from __future__ import annotations

from pathlib import Path

import pytest

from dali_pipelines.sources import tar_shards
from tests.tar_files import write_shard


def shard(path: Path, *labels: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    members = {f"{number}.jpg": b"x" for number in range(len(labels))}
    return write_shard(path, members | {f"{number}.cls": label.encode() for number, label in enumerate(labels)})


def test_lines_are_names(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", "2", "0", "02")
    (tmp_path / "classes.txt").write_bytes("zebra\r\nunseen\r\nänt \xff\n".encode("latin-1"))
    source = tar_shards(path)
    assert source.classes == ("zebra", "unseen", "\udce4nt \udcff")
    assert source.labels.tolist() == [2, 0, 2]
    (tmp_path / "classes.txt").unlink()
    assert tar_shards(path).classes == ("0", "02", "2")


def test_names_in_the_shards_count_more(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("zebra\nant\n")
    assert tar_shards(shard(tmp_path / "a.tar", "0", "cat")).classes == ("0", "cat")
    assert tar_shards(write_shard(tmp_path / "b.tar", {"0.jpg": b"x"})).classes == ()


@pytest.mark.parametrize(
    ("lines", "label", "message"),
    [
        ("zebra\nant\n", "2", r"has 2 lines, for the classes 0 to 1, and a \.cls member of the shards is 2"),
        ("zebra\nant\n", "-1", r"of the shards is -1; correct the file, or remove it"),
        ("zebra\nant\nzebra\n", "0", "has the class 'zebra' twice"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, lines: str, label: str, message: str) -> None:
    (tmp_path / "classes.txt").write_text(lines)
    with pytest.raises(ValueError, match=message):
        tar_shards(shard(tmp_path / "a.tar", label, "0"))


def test_folders_that_differ(tmp_path: Path) -> None:
    paths = [shard(tmp_path / name / "a.tar", "0", "1") for name in ("one", "two")]
    assert tar_shards(paths).classes == ("0", "1")
    (tmp_path / "one" / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(ValueError, match="would have two names"):
        tar_shards(paths)
    (tmp_path / "two" / "classes.txt").write_text("ant\nbee\n")
    assert tar_shards(paths).classes == ("ant", "bee")
    (tmp_path / "two" / "classes.txt").unlink()
    (tmp_path / "two" / "classes.txt").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        tar_shards(paths)
