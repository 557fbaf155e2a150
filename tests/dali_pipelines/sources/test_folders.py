"""Folders of images, with links, damage and what people leave lying about."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dali_pipelines.sources import flat_folder, image_folder, open_source
from tests.conftest import REPOSITORY, write_image

PIXELS = np.zeros((8, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.png", "b/deeper/1.PNG", "a/3.png", "a/10.png", ".hidden/x.png"):
        write_image(tmp_path / name, PIXELS)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    return tmp_path


def test_image_folder_labels_by_sub_folder_in_sorted_order(folder: Path) -> None:
    source = image_folder(folder)
    assert source.classes == ("a", "b")
    assert list(source.names) == ["a/10.png", "a/3.png", "b/2.png", "b/deeper/1.PNG"]
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.place(3) == str(folder / "b/deeper/1.PNG")
    assert source.has_labels


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_arrays_and_dicom_are_images(tmp_path: Path) -> None:
    touch(tmp_path, "flat/1.npy", "flat/0.NPY", "flat/more/2.npy", "classes/a/0.dcm", "classes/b/1.DICOM")
    assert list(open_source(tmp_path / "flat").names) == ["0.NPY", "1.npy", "more/2.npy"]
    source = open_source(tmp_path / "classes")
    assert [(name, int(label)) for name, label in zip(source.names, source.labels)] == [
        ("a/0.dcm", 0),
        ("b/1.DICOM", 1),
    ]


def test_arrays_next_to_images_are_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "flat/0.png", "flat/0.npy", "classes/labels.npy", "classes/a/0.npy", "classes/a/0.png")
    assert list(open_source(tmp_path / "flat").names) == ["0.png"]
    source = open_source(tmp_path / "classes")
    assert list(source.names) == ["a/0.png"]
    assert source.classes == ("a",)
    assert not caplog.records
    touch(tmp_path, "many/a/0.png", "many/b/0.npy", "many/b/1.npy", "many/b/2.npy")
    assert len(image_folder(tmp_path / "many")) == 1
    assert "3 .npy files are left out, because there are 1 images of other formats" in caplog.text


def test_image_folder_agrees_with_torchvisions(small_data: Path) -> None:
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(small_data / "train")
    ours = image_folder(small_data / "train")
    assert [(ours.place(index), ours.labels[index]) for index in range(len(ours))] == theirs.samples


def test_flat_folder_has_no_labels(folder: Path) -> None:
    source = flat_folder(folder)
    assert len(source) == 4
    assert not source.has_labels
    assert set(source.labels.tolist()) == {-1}


def test_open_source_finds_out_which_it_is(folder: Path) -> None:
    assert open_source(folder).has_labels
    assert not open_source(folder / "a").has_labels


def test_fingerprint_follows_the_list_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = image_folder(folder).fingerprint
    moved = tmp_path.with_name(tmp_path.name + "_moved")
    folder.rename(moved)
    assert image_folder(moved).fingerprint == before
    (moved / "a" / "3.png").rename(moved / "a" / "4.png")
    assert image_folder(moved).fingerprint != before
    assert flat_folder(moved).fingerprint != image_folder(moved).fingerprint


def test_names_that_are_not_ascii_or_have_spaces(tmp_path: Path) -> None:
    write_image(tmp_path / "kläße 1" / "ü b.png", PIXELS)
    assert list(image_folder(tmp_path).names) == ["kläße 1/ü b.png"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("missing", "does not exist"),
        ("empty", "no images"),
        ("file.dat", "is a file"),
        ("hollow", "none of its 1 folders has images"),
    ],
)
def test_a_bad_folder_is_named(tmp_path: Path, name: str, rule: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.dat").write_text("")
    (tmp_path / "hollow" / "class").mkdir(parents=True)
    for read in (open_source, image_folder) if name == "hollow" else (open_source, image_folder, flat_folder):
        with pytest.raises(ValueError, match=rule) as error:
            read(tmp_path / name)
        assert name in str(error.value)


def write_tree(root: Path, *names: str) -> Path:
    for name in names:
        write_image(root / name, PIXELS)
    return root


@pytest.mark.parametrize(
    ("links", "names", "left_out"),
    [
        ({"a/up": ".."}, ["a/1.png", "b/2.png"], ["a/up"]),
        ({"a/up": "../..", "b/self": "."}, ["a/1.png", "b/2.png"], ["a/up", "b/self"]),
        ({"a/other": "../b", "b/other": "../a"}, ["a/1.png", "b/2.png"], ["a/other", "b/other"]),
        ({"0": "b"}, ["a/1.png", "b/2.png"], ["0"]),
        ({"a/outside": "../../outside"}, ["a/1.png", "a/outside/3.png", "a/outside/deep/4.png", "b/2.png"], []),
        (
            {"a/one": "../../outside", "b/two": "../../outside/deep"},
            ["a/1.png", "a/one/3.png", "a/one/deep/4.png", "b/2.png"],
            ["b/two"],
        ),
        (
            {"c": "../outside", "../outside/home": "../data"},
            ["a/1.png", "b/2.png", "c/3.png", "c/deep/4.png"],
            ["c/home"],
        ),
        (
            {"c": "../outside", "../outside/deep/up": ".."},
            ["a/1.png", "b/2.png", "c/3.png", "c/deep/4.png"],
            ["c/deep/up"],
        ),
        ({"c": "../outside/deep", "../outside/deep/up": ".."}, ["a/1.png", "b/2.png", "c/4.png"], ["c/up"]),
        ({"c": ".hidden"}, ["a/1.png", "b/2.png", "c/5.png"], []),
        (
            {"a/again.png": "1.png", "a/broken": "gone", "b/endless": "endless"},
            ["a/1.png", "a/again.png", "b/2.png"],
            [],
        ),
    ],
)
def test_each_real_folder_is_read_once(
    tmp_path: Path, links: dict[str, str], names: list[str], left_out: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = write_tree(tmp_path / "data", "a/1.png", "b/2.png", ".hidden/5.png")
    write_tree(tmp_path / "outside", "3.png", "deep/4.png")
    for link, target in links.items():
        os.symlink(target, root / link)
    source = image_folder(root)
    assert list(source.names) == names
    assert list(flat_folder(root).names) == names
    assert [source.classes[label] for label in source.labels] == [name.split("/")[0] for name in names]
    assert sum("link is not followed" in message for message in caplog.messages) == 2 * bool(left_out)
    assert all(link in caplog.text for link in left_out)


def test_a_data_set_of_links_is_as_before(tmp_path: Path) -> None:
    """ImageNet-100, made of links into ImageNet: its names, labels and fingerprint are those of copied folders."""
    write_tree(tmp_path / "whole", *(f"n{number}/{name}.png" for number in range(4) for name in "xy"))
    for number in (3, 1):
        shutil.copytree(tmp_path / "whole" / f"n{number}", tmp_path / "copied" / f"n{number}")
        (tmp_path / "linked").mkdir(exist_ok=True)
        (tmp_path / "linked" / f"n{number}").symlink_to(tmp_path / "whole" / f"n{number}")
    linked, copied = image_folder(tmp_path / "linked"), image_folder(tmp_path / "copied")
    assert linked.fingerprint == copied.fingerprint
    assert linked.classes == ("n1", "n3")


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/data/kl\xe4sse"
    os.makedirs(folder)
    write_image(tmp_path / "x.png", PIXELS).rename(os.fsdecode(folder + b"/\xff.png"))
    source = image_folder(tmp_path / "data")
    assert os.fsencode(source.place(0)) == folder + b"/\xff.png"
    assert len(source.read(0)) > 0
    assert len(source.fingerprint) == 16


@pytest.mark.parametrize("mode", [0, 0o444, 0o111])
@pytest.mark.parametrize("closed", ["a", "a/deeper", "", "b/linked"])
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, closed: str, mode: int) -> None:
    root = write_tree(tmp_path / "data", "a/1.png", "a/deeper/2.png", "b/3.png")
    write_tree(tmp_path / "outside", "4.png")
    (root / "b" / "linked").symlink_to(tmp_path / "outside")
    code = (
        "import os, sys; from dali_pipelines.sources import open_source, image_folder, flat_folder\n"
        "if os.getuid() == 0: os.setgroups([]); os.setuid(65534)\n"
        "for read in (open_source, image_folder, flat_folder):\n"
        "    try: sys.exit(f'{len(read(sys.argv[1]))} images')\n"
        "    except ValueError as error: print(error)\n"
    )
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    (root / closed).chmod(mode)
    try:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-c", code, str(root)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    finally:
        (root / closed).chmod(0o755)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(f"{root / closed if closed else root}: permission denied; change its permissions") == 3


@pytest.mark.parametrize("other", ["empty", "__MACOSX/._1.png", "notes/readme.txt", "deep/er/x.json"])
def test_a_folder_without_images_is_no_class(tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture) -> None:
    root = write_tree(tmp_path / "data", "a/1.png", "n/2.png", "z/3.png")
    before = image_folder(root)
    path = root / other
    if path.suffix:
        path.parent.mkdir(parents=True)
        path.write_text("")
    else:
        path.mkdir()
    source = open_source(root)
    assert (source.classes, source.labels.tolist()) == (("a", "n", "z"), [0, 1, 2])
    assert source.fingerprint == before.fingerprint
    assert f"{other.split('/')[0]} is without images, and left out of the 3 classes" in caplog.text


def test_an_image_beside_class_folders_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_tree(tmp_path / "data", "a/1.png", "b/2.png", "b/c/3.png", "stray.png", "stray2.png")
    assert not open_source(root).has_labels
    assert "read without labels, because the folder directly contains 2 images, next to 3 images" in caplog.text
    assert "move these 2 images" in caplog.text
    caplog.clear()
    assert not open_source(root / "a").has_labels
    assert not caplog.messages


def test_what_is_no_image_file_does_not_make_a_folder_flat(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", "a/1.png")
    os.mkfifo(root / "pipe.png")
    (root / "broken.png").symlink_to("gone.png")
    assert open_source(root).classes == ("a",)


def test_images_that_are_not_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_tree(tmp_path / "data", "a/1.png")
    for name in ("a/1.gif", "a/2.AVIF", "a/3.heic", "a/.4.gif"):
        (root / name).write_text("")
    assert len(image_folder(root)) == 1
    assert "a/1.gif, a/2.AVIF, a/3.heic are left out; this format is not supported" in caplog.text


def test_a_relative_folder_stays_the_same_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "data", "a/1.png")
    monkeypatch.chdir(tmp_path)
    sources = [open_source("data"), flat_folder("./data"), open_source("data/a")]
    fingerprint = image_folder(tmp_path / "data").fingerprint
    monkeypatch.chdir("/")
    assert all(len(source.read(0)) > 0 for source in sources)
    assert sources[0].fingerprint == fingerprint


def test_a_very_deep_tree(tmp_path: Path) -> None:
    """Deeper than Python's functions may call themselves."""
    (tmp_path / "data").mkdir()
    descriptor = os.open(tmp_path / "data", os.O_RDONLY)
    try:
        for _ in range(1200):
            os.mkdir("d", dir_fd=descriptor)
            below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.close(os.open("1.png", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
        assert len(image_folder(tmp_path / "data")) == 1
    finally:
        os.close(descriptor)
        # Python's own removal calls itself.
        subprocess.run(["rm", "-rf", tmp_path / "data"], check=True)


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/dev/null"), lambda path: path.symlink_to(path)]
)
def test_what_is_neither_file_nor_folder_is_named(tmp_path: Path, make: object) -> None:
    path = tmp_path / "data"
    make(path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"data: is an? (pipe|device|endless chain of symbolic links).*"):
        open_source(path)


def test_a_class_of_many_names_is_cut_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_tree(tmp_path / "data", "a/1.png")
    for number in range(9):
        (root / f"empty{number}").mkdir()
    with caplog.at_level(logging.WARNING):
        image_folder(root)
    assert "empty0, empty1, empty2 and 6 others are without images" in caplog.text
