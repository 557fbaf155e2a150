"""`pack` is stopped, resumed, and told to write where it must not: the shards are those of an undisturbed run."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bt_plugin.cli import main
from bt_plugin.errors import FileError
from bt_plugin.tools import pack as pack_module
from bt_plugin.tools.pack import pack
from bt_plugin.tools.packed_image import Conversion
from dali_pipelines.errors import StorageError
from dali_pipelines.sources import ImageSource, Upcoming, open_source
from tests.bt_plugin.tools.packs import contents, files_of, noise, packed
from tests.conftest import write_image
from tests.forks import run_forked
from tests.tar_files import write_shard


def test_foreign_files_stay(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "shard-00000.tar").write_text("mine")
    assert packed(odd, out, "--shards", 2) == 2
    assert "has files that are not those of this command, such as shard-00000.tar" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["shard-00000.tar"]
    (out / "shard-00000.tar").unlink()
    assert packed(odd, out, "--shards", 2) == 0
    before = files_of(out)
    for name in ("notes.txt", "shard-00002.tar"):
        (out / name).write_text("mine")
        assert packed(odd, out, "--shards", 2) == 2
        assert f"such as {name}" in capsys.readouterr().err
        (out / name).unlink()
    assert packed(odd, odd / "a é" / "im.3.tif", "--shards", 2) == 2
    assert "is a file. Name a folder" in capsys.readouterr().err
    assert files_of(out) == before


def test_another_source_or_other_options_are_refused(
    odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert packed(odd, out, "--shards", 2) == 0
    before = files_of(out)
    assert packed(odd, out, "--shards", 3) == 2
    assert "--shards was 2 and is now 3. Restore them to resume" in capsys.readouterr().err
    assert packed(odd, out, "--shards", 2, "--short-side", 10) == 2
    told = capsys.readouterr().err
    assert "--quality was not given and is now 95; --short-side was not given and is now 10" in told
    (odd / "a é").rename(odd / "d")
    assert packed(odd, out, "--shards", 2) == 2
    told = capsys.readouterr().err
    assert "the fingerprint of SOURCE was" in told
    assert "the classes of SOURCE was" in told
    assert files_of(out) == before
    # Before the first shard is finished nothing is lost by a change.
    for path in out.glob("*.tar"):
        path.unlink()
    assert packed(odd, out, "--shards", 3) == 0
    assert open_source(f"{out}/*.tar").classes == ("b é", "c é", "d")
    assert sorted(path.name for path in out.glob("*.idx")) == [f"shard-0000{n}.idx" for n in range(3)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shard-00001.tar", "and was written with"),
        ("shard-00001.idx", "was changed after it was written. Remove shard-00001.tar"),
        ("classes.txt", "was changed after it was written"),
        (".pack/shard-00001.json", "its index or its record cannot be read"),
    ],
)
def test_changed_outputs_are_found(
    odd: Path, tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert packed(odd, out, "--shards", 2) == 0
    before = files_of(out)
    with open(out / name, "ab") as file:
        file.write(b"x")
    assert packed(odd, out, "--shards", 2) == 2
    told = capsys.readouterr().err
    assert message in told
    # The remedy.
    (out / (name if name == "classes.txt" else "shard-00001.tar")).unlink()
    assert packed(odd, out, "--shards", 2) == 0
    assert files_of(out) == before


def test_a_shard_is_read_back(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that changes one byte is found before the shard has its name."""
    close = pack_module.ShardWriter.close

    def damaged(writer: pack_module.ShardWriter) -> None:
        close(writer)
        with open(writer.path, "r+b") as file:
            file.seek(600)
            byte = file.read(1)
            file.seek(600)
            file.write(bytes([byte[0] ^ 1]))

    monkeypatch.setattr(pack_module.ShardWriter, "close", damaged)
    with pytest.raises(FileError, match=r"member 000000000\.tif has other bytes than were written"):
        pack(open_source(odd), tmp_path / "out", shards=2, conversion=Conversion(), num_threads=1, max_bad=0)
    assert not list((tmp_path / "out").glob("*.tar"))


class _Remote(ImageSource):
    """Images that must be announced before they are read; the storage fails at one of them."""

    kind = "pixels"
    reads_ahead = 70

    def __init__(self, fails_at: int | None) -> None:
        super().__init__([str(number) for number in range(200)], None, ())
        self.fails_at = fails_at
        self.announced: list[int] = []

    def announce(self, upcoming: Upcoming) -> None:
        self.announced += upcoming.mine.tolist()

    def read(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
        assert index in self.announced
        if index == self.fails_at:
            raise StorageError("https://example.org/set: no answer")
        return noise(index, 4, 4, 3)

    def place(self, index: int) -> str:
        return str(index)


def test_a_storage_that_fails_loses_nothing(tmp_path: Path) -> None:
    for fails_at in (150, None):
        source = _Remote(fails_at)
        options = {"shards": 4, "conversion": Conversion(), "num_threads": 3, "max_bad": 0}
        if fails_at:
            with pytest.raises(StorageError):
                pack(source, tmp_path / "out", **options)  # type: ignore[arg-type]
            # The third shard may still be verified when the fourth fails.
            assert len(list((tmp_path / "out").glob("*.tar"))) == 3
        else:
            assert pack(source, tmp_path / "out", **options).new_shards == 1  # type: ignore[arg-type]
            assert source.announced == list(range(150, 200)), "only what is missing, in order and once"
    pack(_Remote(None), tmp_path / "whole", shards=4, conversion=Conversion(), num_threads=1, max_bad=0)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_two_at_once_are_refused(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Nested(_Remote):
        def read(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
            if index == 0:
                assert packed(odd, tmp_path / "out", "--shards", 2) == 2
            return super().read(index)

    pack(Nested(None), tmp_path / "out", shards=1, conversion=Conversion(), num_threads=1, max_bad=0)
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().err


def test_a_full_disk_is_told_and_resumed(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount is not allowed here: {mounted.stderr.decode()}")
    try:
        # The size of an archive's members is not sampled.
        shard = write_shard(tmp_path / "a.tar", {f"{n}.png": _png(n) for n in range(4)})
        assert packed(shard, disk / "out", "--shards", 4) == 2
        told = capsys.readouterr().err
        assert "No space left on device; free disk space, then rerun the same command" in told
        assert ".partial" not in told
        assert not list((disk / "out" / ".pack").glob("*.partial")), "they need space"
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        assert packed(shard, disk / "out", "--shards", 4) == 0
        assert contents(open_source(f"{disk}/out/*.tar")) == contents(open_source(shard))
        for number in range(3):
            write_image(tmp_path / "large" / f"{number}.bmp", noise(number, 400, 400, 3))
        assert packed(tmp_path / "large", disk / "other", "--shards", 1) == 2
        told = capsys.readouterr().err
        assert "needs about 0.00135 GiB" in told
        assert "or reduce the images with --short-side" in told
        assert packed(tmp_path / "large", disk / "other", "--shards", 1, "--short-side", 50) == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def _png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(seed, 80, 80, 3)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow
def test_a_kill_at_any_moment(odd: Path, tmp_path: Path) -> None:
    (tmp_path / "mortal").mkdir()
    options = ["--shards", "2", "--num-threads", "2"]
    result = run_forked(1, "tests.mortal_pack", str(tmp_path / "mortal"), str(odd), *options)
    assert result.returncode == 0, result.stderr
    assert packed(odd, tmp_path / "whole", "--shards", 2) == 0
    whole = files_of(tmp_path / "whole")
    folders = list((tmp_path / "mortal").iterdir())
    assert len(folders) > 25, "a run of two shards changes that many files"
    for folder in folders:
        assert files_of(folder) == whole, folder.name
        assert not list((folder / ".pack").glob("*.partial"))


@pytest.mark.slow
def test_ctrl_c_resumes(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", noise(0, 60, 200, 200, 3))
    command = [sys.executable, "-m", "bt_plugin", "pack", str(tmp_path / "set.npy"), str(tmp_path / "out")]
    command += ["--shards", "30", "--num-threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while process.poll() is None and not list((tmp_path / "out").glob("*.tar")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert b"Traceback" not in told
    assert 1 <= len(list((tmp_path / "out").glob("*.tar"))) < 30
    assert main([*command[3:]]) == 0
    assert main(["pack", str(tmp_path / "set.npy"), str(tmp_path / "whole"), "--shards", "30"]) == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
