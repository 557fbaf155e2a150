"""One write for all files: whole, durable, and with errors that say what to do."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bt_plugin.errors import FileError
from bt_plugin.runs.atomic_file import check_output, write_atomically


def test_text_bytes_and_names_that_are_not_utf8_are_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "é\udcff")
    assert (tmp_path / "a").read_bytes() == "é".encode() + b"\xff"
    write_atomically(tmp_path / "a", b"\0new")
    assert (tmp_path / "a").read_bytes() == b"\0new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "a", "")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    write_atomically(tmp_path / "a", "old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(FileError, match="a: Input/output error; check the disk"):
        write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_file_and_folder_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    write_atomically(tmp_path / "a", "x")
    assert [Path(path).name for path in synced] == [".a.partial", tmp_path.name]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """16 KiB, of which none are free."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", folder], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        (folder / "filler").write_bytes(bytes(8192))
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_and_nothing_stays(full_disk: Path) -> None:
    with pytest.raises(FileError, match=r"disk/out: No space left on device; free disk space, then rerun"):
        write_atomically(full_disk / "out", bytes(100_000))
    assert [path.name for path in full_disk.iterdir()] == ["filler"]


@pytest.mark.parametrize(
    "path",
    ["file/out", "/dev/null/out", "x" * 300, "/".join(["x" * 200] * 30), "loop/out", "/proc/1/out", "a\0b"],
    ids=["below a file", "below a device", "long name", "long path", "a link to itself", "no writing here", "NUL"],
)
def test_an_output_that_cannot_be_written_is_refused_before(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileError, match=r"^--output: "):
        check_output(tmp_path / path, "--output")
    if "\0" not in path:
        with pytest.raises(FileError):
            write_atomically(tmp_path / path, "x")


def test_an_output_that_can_be_written_is_let_through(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b" / "c.html", "--output")
    assert list(tmp_path.iterdir()) == []
