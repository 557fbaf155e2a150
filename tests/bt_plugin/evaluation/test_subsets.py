from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bt_plugin.errors import RecipeError, UserError
from bt_plugin.evaluation.subsets import class_balanced, listed
from dali_pipelines import ImageSource, file_list, image_folder, several_sources
from tests.conftest import write_image


def test_each_class_gives_its_share(small_data: Path) -> None:
    source = image_folder(small_data / "train")
    half = class_balanced(source, 0.5, seed=0)
    assert np.bincount(half.labels).tolist() == [6, 6, 6]
    assert np.bincount(class_balanced(source, 0.01, seed=0).labels).tolist() == [1, 1, 1], "one at least"
    assert len(class_balanced(source, 1.0, seed=0)) == len(source)
    assert list(class_balanced(source, 0.5, seed=0).names) == list(half.names)
    assert list(class_balanced(source, 0.5, seed=1).names) != list(half.names)
    labels = dict(zip(source.names, source.labels))
    assert [labels[name] for name in half.names] == half.labels.tolist()


def tree(root: Path, *names: str) -> ImageSource:
    for name in names:
        write_image(root / name, np.zeros((8, 8, 3), np.uint8))
    return image_folder(root)


@pytest.mark.parametrize(
    ("lines", "chosen"),
    [
        ("a/1.png\nb/2.png\n", ["a/1.png", "b/2.png"]),
        ("b/2.png\r\n\r\n  a/1.png  \r\n", ["a/1.png", "b/2.png"]),
        ("\ufeffa/1.png", ["a/1.png"]),
        ("my own 3.png\n", ["b/my own 3.png"]),
        ("b/my own 3.png\nb/deep/4.png", ["b/my own 3.png", "b/deep/4.png"]),
        ("4.png\n4.png\nb/deep/4.png\n", ["b/deep/4.png"]),
        ("ü\u2028x.png", ["a/ü\u2028x.png"]),
    ],
)
def test_a_list_names_the_images(tmp_path: Path, lines: str, chosen: list[str]) -> None:
    names = ("a/1.png", "a/ü\u2028x.png", "b/1.png", "b/2.png", "b/deep/4.png", "b/my own 3.png")
    source = tree(tmp_path / "data", *names)
    (tmp_path / "some.txt").write_text(lines, newline="")
    part = listed(source, str(tmp_path / "some.txt"))
    assert list(part.names) == chosen
    assert [part.classes[label] for label in part.labels] == [name[0] for name in chosen]


def test_images_of_several_sources_have_their_number(tmp_path: Path) -> None:
    source = several_sources([tree(tmp_path / "x", "a/1.png", "a/2.png"), tree(tmp_path / "y", "a/1.png")])
    (tmp_path / "some.txt").write_text("1/a/1.png\n2.png\n")
    assert list(listed(source, str(tmp_path / "some.txt")).names) == ["0/a/2.png", "1/a/1.png"]
    (tmp_path / "other.txt").write_text("1.png\n")
    with pytest.raises(RecipeError, match=r"such as 0/a/1\.png and 1/a/1\.png; write FOLDER/NAME"):
        listed(source, str(tmp_path / "other.txt"))
    (tmp_path / "wrong.txt").write_text("a/1.png\n")
    with pytest.raises(RecipeError, match=r"as FOLDER/NAME or NAME, such as '0/a/1\.png'"):
        listed(source, str(tmp_path / "wrong.txt"))


@pytest.mark.parametrize("line", ["1.png", "my own.png"])
def test_a_name_of_several_images_is_refused(tmp_path: Path, line: str) -> None:
    source = tree(tmp_path / "data", *(f"{folder}/{name}.png" for folder in ("a", "b/c") for name in ("1", "my own")))
    (tmp_path / "some.txt").write_text(f"a/1.png\n{line}\n")
    rule = f"'{line}' is the name of 2 images, such as a/{line} and b/c/{line}; write FOLDER/NAME"
    with pytest.raises(RecipeError, match=rf"finetune\.subset: .*{rule}"):
        listed(source, str(tmp_path / "some.txt"))


def test_a_whole_name_wins(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("1.png,x\na/1.png,y\n/far/a/1.png,z\n")
    (tmp_path / "some.txt").write_text("1.png\na/1.png\n")
    assert list(listed(file_list(tmp_path / "list.csv"), str(tmp_path / "some.txt")).names) == ["1.png", "a/1.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no.jpg\n", r"1 of its 1 names, such as 'no\.jpg'"),
        (b"a b.jpg\n1.jpg\x1b\n", r"2 of its 2 names, such as '1\.jpg\\x1b'"),
        (b"c/2.png\n", r"names, such as 'c/2\.png'"),
        (b"", "the file has no names"),
        (b"\n \r\n", "the file has no names"),
        ("1.png\n".encode("utf-16"), "is not UTF-8; save it as UTF-8"),
        (None, "No such file or directory; check the path"),
    ],
)
def test_a_list_of_other_images_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "some.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"finetune\.subset: .*{message}"):
        listed(tree(tmp_path / "data", "a/1.png", "b/c/2.png"), str(file))


def test_only_a_regular_file_is_a_list(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"finetune\.subset: .*is a pipe; only regular files are read"):
        listed(tree(tmp_path / "data", "a/1.png"), str(tmp_path / "pipe.txt"))
