"""Public data sets: small ones in the same layouts, from a real server, become what recipes read."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bt_plugin.cli import main
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.data import get_data as module
from bt_plugin.data import public_data
from bt_plugin.data.from_recipe import open_sources
from bt_plugin.data.get_data import get_data
from bt_plugin.data.public_data import PUBLIC_DATA
from bt_plugin.errors import FileError, UserError
from bt_plugin.runs.directory import RunLock
from dali_pipelines import image_folder, open_source
from tests.bt_plugin.data.public_archives import COUNTS, IMAGENETTE, UNLABELED, publish
from tests.web import Nginx, free_port, nginx, proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("web")
    (folder / "root").mkdir()
    with nginx(folder / "root", folder / "server") as found:
        yield found


def recipe_keys(name: str, folder: Path) -> list[str]:
    return [key.strip("'") for key in re.split(r" (?=data\.)", PUBLIC_DATA[name].keys(folder))]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_arrays_are_those_of_the_archive(
    name: str, server: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, expected = publish(name, server.root, server.url, monkeypatch)
    monkeypatch.setattr(public_data, "_TOGETHER", 3)
    folder = tmp_path / "new" / name
    assert main(["get", name, str(folder)]) == 0
    assert f"{PUBLIC_DATA[name].title} is written" in capsys.readouterr().out
    for split in COUNTS:
        images, labels, classes = expected[split]
        source = open_source(folder / f"{split}.npz")
        assert source.classes == tuple(classes)
        assert source.labels.tolist() == labels.tolist()
        np.testing.assert_array_equal(np.stack([source.read(index) for index in range(len(source))]), images)
    if name == "stl10":
        np.testing.assert_array_equal(np.load(folder / "unlabeled.npy", mmap_mode="r"), expected["unlabeled"])
    about = (folder / "ABOUT.txt").read_text()
    assert f"{server.url}/{archive.name}" in about
    assert "asks to cite" in about
    assert list((tmp_path / "new").iterdir()) == [folder]

    recipe = load_recipe(PUBLIC_DATA[name].recipe, recipe_keys(name, folder))
    train, val = open_sources(recipe)
    assert len(train) == (UNLABELED + COUNTS["train"] if name == "stl10" else len(expected["train"][0]))
    assert name == "stl10" or (val is not None and val.classes == train.classes)

    requests = len(server.requests())
    assert main(["get", name, str(folder)]) == 0
    assert "already there" in capsys.readouterr().out
    assert len(server.requests()) == requests


def test_imagenette_becomes_class_folders(server: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, files = publish("imagenette-160", server.root, server.url, monkeypatch)
    folder = tmp_path / "imagenette"
    folder.mkdir()
    assert get_data("imagenette-160", folder)
    assert not get_data("imagenette-160", folder)
    for split, count in (("train", COUNTS["train"]), ("val", COUNTS["test"])):
        source = image_folder(folder / split)
        assert (len(source), source.classes) == (count, IMAGENETTE)
        for path in (Path(source.place(index)) for index in range(count)):
            assert path.read_bytes() == files[f"imagenette2-160/{split}/{path.parent.name}/{path.name}"]
    with pytest.raises(UserError, match=r"contains files that are not Imagenette, 320 px"):
        get_data("imagenette-320", folder)


def test_torchvision_s_own_constants_are_found() -> None:
    """The other tests change them. Imagenette's are private."""
    for name, data in PUBLIC_DATA.items():
        archive = data.archive()
        assert archive.url.startswith(("https://", "http://")), name
        assert archive.url.endswith(archive.name)
        assert re.fullmatch("[0-9a-f]{32}", archive.md5)
    assert len({data.archive().md5 for data in PUBLIC_DATA.values()}) == len(PUBLIC_DATA)


def test_without_a_network_the_url_and_the_way_by_hand_are_named(
    server: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    archive, _ = publish("cifar10", server.root, url, monkeypatch)
    assert main(["get", "cifar10", str(tmp_path / "cifar10")]) == 2
    said = capsys.readouterr().err
    assert f"{url}/{archive.name}: cannot be downloaded: [Errno 111] Connection refused" in said
    assert "add --archive FILE" in said
    assert list(tmp_path.iterdir()) == []

    content = archive.read_bytes()
    assert main(["get", "cifar10", str(tmp_path / "cifar10"), "--archive", str(archive)]) == 0
    assert len(open_source(tmp_path / "cifar10" / "train.npz")) == 5 * COUNTS["train"]
    assert archive.read_bytes() == content


def test_a_wrong_archive_is_refused_and_left_alone(
    server: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, _ = publish("cifar10", server.root, server.url, monkeypatch)
    mine = tmp_path / "mine.tar.gz"
    mine.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=rf"--archive: {mine} is not the file of CIFAR-10, or it is damaged.*{server.url}"
    ):
        get_data("cifar10", tmp_path / "cifar10", archive=mine)
    with pytest.raises(FileError, match=r"--archive: .*No such file"):
        get_data("cifar10", tmp_path / "cifar10", archive=tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == [mine]
    assert mine.read_bytes() == archive.read_bytes()[:-1]


def test_a_download_that_is_cut_or_refused_is_named_and_repeated(
    server: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(server.url) as between:
        publish("cifar100", server.root, between.url, monkeypatch)
        between.cut = range(1, 2)  # the first answer is that to a request for redirections
        with pytest.raises(UserError, match=rf"{between.url}/.* is damaged: its MD5 checksum must be \w{{32}}\. Rerun"):
            get_data("cifar100", tmp_path / "cifar100")
        assert list(tmp_path.iterdir()) == []
        between.busy = range(between.answers, between.answers + 1)
        with pytest.raises(UserError, match="cannot be downloaded: Service Unavailable"):
            get_data("cifar100", tmp_path / "cifar100")
        between.delay_s = 0.2
        monkeypatch.setattr(module, "_SILENT_S", 0.05)
        with pytest.raises(UserError, match=r"cannot be downloaded: .*timed out"):
            get_data("cifar100", tmp_path / "cifar100")
        between.delay_s = 0.0
        assert list(tmp_path.iterdir()) == []
        assert get_data("cifar100", tmp_path / "cifar100")


def test_a_full_disk_is_named_and_the_download_is_kept(
    server: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, _ = publish("cifar10", server.root, server.url, monkeypatch)
    # Enough for the download, but not for what is extracted from it.
    size = archive.stat().st_size + 80 * 2**10
    data = replace(PUBLIC_DATA["cifar10"], archive_gib=0.0, written_gib=0.0)
    monkeypatch.setitem(PUBLIC_DATA, "cifar10", data)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        with pytest.raises(UserError, match=r"DIR: .*disk is a whole disk.*name a folder that does not exist yet"):
            get_data("cifar10", disk)
        with pytest.raises(FileError, match=r"No space left on device; free disk space.*The downloaded file is kept"):
            get_data("cifar10", disk / "cifar10")
        assert [path.name for path in disk.iterdir()] == [".cifar10.partial"]
        assert {path.name for path in (disk / ".cifar10.partial").iterdir()} == {".lock", archive.name}
        subprocess.run(["mount", "-o", f"remount,size={size + 2**21}", disk], check=True)
        archive.unlink()
        assert get_data("cifar10", disk / "cifar10")
        assert [path.name for path in disk.iterdir()] == ["cifar10"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_cannot_be_written_is_refused_before_the_download(
    server: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("cifar10", server.root, server.url, monkeypatch)
    requests = len(server.requests())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    locked = tmp_path / ".locked.partial"
    locked.mkdir()
    lock = RunLock(locked, "DIR")
    free_gib = shutil.disk_usage(tmp_path).free / 2**30
    for folder, rule in (
        ("photos", "DIR: .*photos contains files that are not CIFAR-10 .* does not exist yet"),
        ("file", "DIR: .*file: Not a directory"),
        ("loop", "DIR: .*loop.* symbolic link"),
        ("locked", r"DIR: .* is being written by process \d+"),
    ):
        with pytest.raises(UserError, match=rule):
            get_data("cifar10", tmp_path / folder)
    lock.release()
    monkeypatch.setitem(PUBLIC_DATA, "cifar10", replace(PUBLIC_DATA["cifar10"], written_gib=free_gib + 1000))
    with pytest.raises(UserError, match=r"new needs \S+ GiB while it is written, and \S+ GiB are free\. Free disk"):
        get_data("cifar10", tmp_path / "new")
    with pytest.raises(UserError, match=r"NAME: cifar is not allowed; it must be one of cifar10, cifar100, stl10"):
        get_data("cifar", tmp_path / "new")
    assert len(server.requests()) == requests
    assert sorted(path.name for path in tmp_path.iterdir()) == [".locked.partial", "file", "loop", "photos"]
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["mine.jpg"]
