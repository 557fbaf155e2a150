"""Lists of files: what people write, and what is wrong with it."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dali_pipelines.sources import file_list, open_source
from tests.conftest import write_image

PIXELS = np.zeros((8, 8, 3), dtype=np.uint8)


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
        ("", "has no files"),
        ("path,label\n", "has no files"),
        ("a.png,1\nb.png\n", r"line 2: \['b.png'\] must be a path and a label"),
        ("a.png,1,2\n", "line 1: .* must be a path"),
        ("a.png,1\n,1\n", "line 2: .* must be a path and a label"),
    ],
)
def test_a_bad_list_is_named_by_its_line(tmp_path: Path, text: str, rule: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=f"list.csv.*{rule}"):
        open_source(tmp_path / "list.csv")
    with pytest.raises(ValueError, match=r"gone\.csv: does not exist"):
        open_source(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("l.csv", "path,label", "{},{}"),
        ("l.csv", "filename,class", "{},{}"),
        ("l.csv", "Label,File Name", "{1},{0}"),
        ("l.csv", "id,width,image_path,height,Category", "7,64,{},48,{}"),
        ("l.csv", "label,path", "{1},{0}"),
        ("l.tsv", "img\ttarget", "{}\t{}"),
        ("l.tsv", "wnid\tx\timage", "{1}\t\t{0}"),
        ("l.csv", '"image-id","class_name"', '"{}","{}"'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_headers_say_what_the_columns_are(tmp_path: Path, name: str, header: str, row: str, encoding: str) -> None:
    rows = [header, *(row.format(f"{label}/{number}.png", label) for number, label in enumerate(("é", "a", "é")))]
    (tmp_path / name).write_text("\n".join(rows), encoding=encoding)
    source = file_list(tmp_path / name)
    assert list(source.names) == ["é/0.png", "a/1.png", "é/2.png"]
    assert source.classes == ("a", "é")
    assert source.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("header", ["\ufeff", "\ufefffile\n", "image\n", "\ufeff\n\n"])
def test_headers_and_marks_of_plain_lists(tmp_path: Path, header: str) -> None:
    (tmp_path / "l.txt").write_text(f"{header}a.png\nb.png\n")
    assert list(file_list(tmp_path / "l.txt").names) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        (
            "l.csv",
            "where,what\na.png,1\n",
            r"line 1: \['where', 'what'\] looks like a header with unknown names.* path, ",
        ),
        ("l.csv", "\nfoo\na.png\n", "line 2: .*looks like a header"),
        ("l.txt", "pictures\na.png\n", "line 1: .*looks like a header"),
        (
            "l.csv",
            "path,breed\na.png,1\n",
            "line 1: none of the columns 'breed' has a known label name; name it 'label'",
        ),
        (
            "l.csv",
            "path,label,class\na.png,1,2\n",
            "line 1: the columns label, class could all be the labels; keep one",
        ),
        (
            "l.csv",
            "path;label\na.png;1\n",
            r"line 1: .*the separator ';'; a \.csv list has a comma; write path,label into a \.csv",
        ),
        ("l.csv", "a.png;1\nb.png;2\n", "line 1: .*the separator ';'"),
        (
            "l.csv",
            "a.png\t1\nb.png\t2\n",
            r"line 1: .*the separator '\\t'; a \.csv list has a comma; name the list \.tsv",
        ),
        ("l.tsv", "a.png,1\n", r"line 1: .*the separator ','; a \.tsv list has a tab; name the list \.csv"),
        (
            "l.txt",
            "a.png 1\n",
            r"line 1: .*the separator ' '; a \.txt list has only the path; write path,label into a \.csv",
        ),
        ("l.txt", "my a.jpg 1\n", "line 1: .*the separator ' '"),
        ("l.txt", "ok.png\nb.png\tcat\n", r"line 2: .*the separator '\\t'.*name the list \.tsv"),
        ("l.txt", "a.png,cat\n", r"line 1: .*name the list \.csv"),
        ("l.csv", "a.png cat\n", "line 1: .*the separator ' '"),
        ("l.csv", "a.png,cat\nb.png\n", r"line 2: \['b.png'\] must be a path and a label"),
        ("l.csv", "a.png,cat\nb.png,\n", r"line 2: .*has no label; give every line a label"),
        ("l.csv", "path,w,label\na.png,1,cat\nb.png,2\n", "line 3: .*must be a path and a label among 3 columns"),
        ("l.csv", "a.png,cat\nb.png,  \n", r"line 2: .*has no label"),
        ("l.csv", f"a.png,{'9' * 5000}\n", "line 1: the label has 5000 characters; it may have at most 1000"),
        ("l.csv", 'a.png,1\n"b.png,2\nc.png,3\n', "line 3: unexpected end of data; correct the quotation marks"),
        ("l.csv", 'a.png,1\n"b.png"x,2\n', "line 2: .*quotation marks"),
        ("l.txt", "a.png\n" + "x" * 100_000, "line 2: has more than 65536 bytes"),
        ("l.csv", "a.png,1\nb\0.png,2\n", "line 2: has a NUL byte"),
    ],
)
def test_a_wrong_list_is_named_by_its_line_with_a_remedy(tmp_path: Path, name: str, text: str, rule: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}, {rule}") as error:
        open_source(tmp_path / name)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    ("encoding", "rule"),
    [
        ("latin-1", "line 3: .*is not UTF-8, perhaps Latin-1; save the list as UTF-8"),
        ("cp1252", "line 3: .*is not UTF-8"),
        ("utf-16", "line 1: the list is UTF-16; save it as UTF-8"),
        ("utf-16-le", "line 1: has a NUL byte, so it is probably UTF-16"),
        ("utf-16-be", "line 1: has a NUL byte"),
        ("utf-32", "line 1: the list is UTF-16|line 1: has a NUL byte"),
    ],
)
@pytest.mark.parametrize(
    "rows", ["path,label\na/1.png,a\nb/2.png,k\xe4se\n", "path,label\na/1.png,a\nk\xe4se/2.png,b\n"]
)
def test_other_encodings_are_named(tmp_path: Path, encoding: str, rule: str, rows: str) -> None:
    (tmp_path / "l.csv").write_bytes(rows.encode(encoding))
    with pytest.raises(ValueError, match=f"l.csv, {rule}"):
        open_source(tmp_path / "l.csv")


def test_names_that_are_not_utf_8_are_read_where_they_exist(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    os.mkdir(folder + b"/kl\xe4sse")
    write_image(tmp_path / "x.png", PIXELS).rename(os.fsdecode(folder + b"/kl\xe4sse/\xff.png"))
    (tmp_path / "l.csv").write_bytes(b"path,label\nkl\xe4sse/\xff.png,kl\xe4sse\n")
    source = open_source(tmp_path / "l.csv")
    assert len(source.read(0)) > 0
    assert os.fsencode(source.classes[0]) == b"kl\xe4sse"
    (tmp_path / "l.csv").write_bytes(b"kl\xe4sse/\xff.png,a\nkl\xe4sse/\xfe.png,b\n")
    with pytest.raises(ValueError, match=r"l.csv, line 2: .*\\udcfe.*is not UTF-8"):
        open_source(tmp_path / "l.csv")


@pytest.mark.parametrize("name", ["a.png 3", "a.png;3", "my, own.png", "where", "x.png\t1"])
def test_a_file_that_exists_is_a_path_whatever_its_name(tmp_path: Path, name: str) -> None:
    for each in (name, "b.png"):
        write_image(tmp_path / "x.png", PIXELS).rename(tmp_path / each)
    (tmp_path / "l.txt").write_text(f"{name}\nb.png\n")
    assert list(file_list(tmp_path / "l.txt").names) == [name, "b.png"]


def test_paths_without_suffixes_are_paths(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("blobs/0a1b,1\nblobs/77ff,0\n")
    assert list(file_list(tmp_path / "l.csv").names) == ["blobs/0a1b", "blobs/77ff"]


def test_labels_keep_their_blanks_and_must_not_differ_in_them_alone(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("a.png, cat\nb.png, cat\n")
    assert file_list(tmp_path / "l.csv").classes == (" cat",)
    (tmp_path / "l.csv").write_text("a.png, cat\nb.png,cat\n")
    with pytest.raises(ValueError, match=r"l\.csv: the labels ' cat' and 'cat' differ only in whitespace"):
        file_list(tmp_path / "l.csv")


def test_home_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_image(tmp_path / "pictures/a.png", PIXELS)
    for name, text in (("l.csv", "~/pictures/a.png,1\n"), ("l.txt", "~/pictures/a.png\n")):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / "elsewhere" / name).write_text(text)
        assert len(open_source(f"~/elsewhere/{name}").read(0)) > 0


def test_a_relative_list_stays_the_same_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "data/a.png", PIXELS)
    (tmp_path / "data/l.txt").write_text("a.png\n")
    monkeypatch.chdir(tmp_path)
    source = open_source("data/l.txt")
    monkeypatch.chdir("/")
    assert len(source.read(0)) > 0


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".npz", ".npy", ".tar"])
def test_only_regular_files_are_opened(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a pipe"), ("zero", "a device")):
        with pytest.raises(ValueError, match=f"{name}{suffix}: is {kind}; only regular files are read"):
            open_source(tmp_path / f"{name}{suffix}")


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1, max_size=20)
WITHIN = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(
    rows=st.lists(
        st.tuples(TEXT.map("{}.png".format), TEXT.filter(str.strip).map("x{}x".format)), min_size=1, max_size=5
    ),
    cut=st.floats(0, 1),
)
@WITHIN
def test_a_list_is_what_was_written_or_refused_wherever_it_is_cut(
    tmp_path: Path, rows: list[tuple[str, str]], cut: float
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("path", "label"), *rows])
    content = text.getvalue().encode()
    path = tmp_path / "l.csv"
    path.write_bytes(content)
    source = file_list(path)
    assert list(zip(source.names, (source.classes[label] for label in source.labels))) == [
        (name, label) for name, label in rows
    ]
    header = len("path,label\r\n")
    path.write_bytes(content[: header + int(cut * (len(content) - header))])
    try:
        part = file_list(path)
    except ValueError as error:
        assert "l.csv" in str(error)  # noqa: PT017
    else:
        # That the last label was longer, nothing tells.
        assert list(part.names) == [name for name, _ in rows[: len(part)]]
        labels = [part.classes[label] for label in part.labels]
        assert labels[:-1] == [label for _, label in rows[: len(part) - 1]]
        assert rows[len(part) - 1][1].startswith(labels[-1])


@given(content=st.binary(max_size=300), suffix=st.sampled_from([".csv", ".tsv", ".txt"]))
@WITHIN
def test_any_bytes_are_a_list_or_refused_by_name(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"l{suffix}"
    path.write_bytes(content)
    try:
        source = file_list(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert "\0" not in "".join(source.names)
        assert all(name.encode(errors="surrogateescape") in content for name in source.names if name[:2] != "~/")
