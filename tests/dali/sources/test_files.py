from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dali_pipelines.sources import file_list, flat_folder, image_folder, open_source
from tests.conftest import write_image

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
        ("hollow", "no images in this class"),
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


@pytest.mark.parametrize(
    ("name", "text", "classes", "labels"),
    [
        ("list.csv", "path,label\na/1.png,cat\n\n/b/2.png,ant\n", ("ant", "cat"), [1, 0]),
        ("list.tsv", "a/1.png\t10\n/b/2.png\t9\n", ("9", "10"), [1, 0]),
        ("list.csv", '"a/1.png"\n/b/2.png', (), [-1, -1]),
        ("list.txt", "path\r\na/1.png\r\n/b/2.png\r\n", (), [-1, -1]),
    ],
)
def test_file_lists(tmp_path: Path, name: str, text: str, classes: tuple[str, ...], labels: list[int]) -> None:
    (tmp_path / name).write_text(text, newline="")
    source = open_source(tmp_path / name)
    assert [source.place(index) for index in range(len(source))] == [f"{tmp_path}/a/1.png", "/b/2.png"]
    assert source.classes == classes
    assert source.labels.tolist() == labels


def test_commas_and_spaces_belong_to_a_path(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("my, own.png\n")
    (tmp_path / "list.csv").write_text('"my, own.png",3\n')
    for name in ("list.txt", "list.csv"):
        assert list(file_list(tmp_path / name).names) == ["my, own.png"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "no files in it"),
        ("path,label\n", "no files in it"),
        ("a.png,1\nb.png\n", r"line 2: \['b.png'\] must be a path, a label"),
        ("a.png,1,2\n", "line 1: .* must be a path"),
        ("a.png,1\n,1\n", "line 2: .* must be a path, a label"),
    ],
)
def test_a_bad_list_is_named_by_its_line(tmp_path: Path, text: str, rule: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=f"list.csv.*{rule}"):
        open_source(tmp_path / "list.csv")
    with pytest.raises(ValueError, match=r"gone\.csv: does not exist"):
        open_source(tmp_path / "gone.csv")
