"""Which members of a shard are images, which label each has, and which shards a pattern means."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from dali_pipelines import open_source, tar_shards
from tests.tar_files import write_shard


def labelled(path: Path | str) -> dict[str, str]:
    source = open_source(path)
    names = [name.split(".tar/")[1] for name in source.names]
    return {name: source.classes[label] if source.has_labels else "" for name, label in zip(names, source.labels)}


# Members with their contents, "=" between them, and the images with the labels they must have.
LABELLED = [
    # The same name but for the last suffix.
    ("cat.0.jpg cat.0.cls=0 cat.1.jpg cat.1.cls=1 cat.2.jpg cat.2.cls=2", "cat.0.jpg=0 cat.1.jpg=1 cat.2.jpg=2"),
    ("v1.2/a.jpg v1.2/a.cls=x v1.3/a.jpg v1.3/a.cls=y", "v1.2/a.jpg=x v1.3/a.jpg=y"),
    ("a.b.c.png a.b.d.png a.b.c.cls=1 a.b.d.cls=2", "a.b.c.png=1 a.b.d.png=2"),
    ("2024.01.png 2024.01.cls=1 2024.02.png 2024.02.cls=2", "2024.01.png=1 2024.02.png=2"),
    ("0.jpg 0.1.jpg 0.cls=a 0.1.cls=b", "0.jpg=a 0.1.jpg=b"),
    ("0.rgb.png 0.rgb.cls=a 1.rgb.png 1.rgb.cls=b", "0.rgb.png=a 1.rgb.png=b"),
    # The same key.
    ("0.left.jpg 0.cls=a", "0.left.jpg=a"),
    ("0.left.jpg 0.label.cls=a", "0.left.jpg=a"),
    ("0.1.jpg 0.cls=key 0.1.cls=own", "0.1.jpg=own"),
    ("0.1.jpg 0.x.cls=a 0.y.cls=a", "0.1.jpg=a"),
    # Next to other images, .npy files are not images.
    ("0.jpg 0.npy 0.cls=a 1.jpg 1.npy 1.cls=b", "0.jpg=a 1.jpg=b"),
    ("0.NPY 0.cls=a 1.npy 1.cls=b", "0.NPY=a 1.npy=b"),
    ("0.dcm 0.cls=a 1.dicom 1.cls=b 1.npy", "0.dcm=a 1.dicom=b"),
    # No label.
    ("cat.0.jpg cat.1.jpg dog.0.jpg dog.1.jpg", "cat.0.jpg= cat.1.jpg= dog.0.jpg= dog.1.jpg="),
    ("St.Moritz.jpg St.Gallen.jpg Dr.Who.jpg", "St.Moritz.jpg= St.Gallen.jpg= Dr.Who.jpg="),
]


@pytest.mark.parametrize(("members", "expected"), LABELLED)
def test_each_image_has_its_label(tmp_path: Path, members: str, expected: str) -> None:
    parted = (member.partition("=") for member in members.split())
    write_shard(tmp_path / "x.tar", {name: content.encode() for name, _, content in parted})
    assert " ".join(f"{name}={label}" for name, label in labelled(tmp_path / "x.tar").items()) == expected


@pytest.mark.parametrize(
    ("names", "remedy"),
    [
        (["0.jpg", "0.seg.png", "0.cls"], r"\?image=jpg, use both with \?image=jpg,seg\.png"),
        (["0.jpg", "0.png"], r"\?image=jpg"),
        (["0.jpg", "0.png", "0.cls"], r"\?image=jpg"),
        (["0.mask.png", "0.cls", "0.jpg"], r"\?image=mask\.png"),
        (["0.1.jpg", "0.2.jpg", "0.cls"], r"\?image=1\.jpg, use both with \?image=1\.jpg,2\.jpg"),
        (["0.left.jpg", "0.right.jpg", "0.cls"], r"\?image=left\.jpg"),
        (["0.rgb.png", "0.depth.png", "1.rgb.png", "1.depth.png"], r"\?image=rgb\.png"),
        (["a/0.img.jpg", "a/0.mask.png", "a/0.cls", "a/1.img.jpg", "a/1.mask.png", "a/1.cls"], r"\?image=img\.jpg"),
    ],
)
def test_samples_of_several_images_are_refused_until_one_is_chosen(
    tmp_path: Path, names: list[str], remedy: str
) -> None:
    write_shard(tmp_path / "x.tar", dict.fromkeys(names, b"1"))
    with pytest.raises(ValueError, match=rf"x\.tar: .* are images of one sample; choose one with .*{remedy}"):
        open_source(tmp_path / "x.tar")


def test_an_image_is_chosen(tmp_path: Path) -> None:
    for shard in range(2):
        members = {
            f"{shard}{n}.{s}": f"{s}{n}".encode() for n in range(3) for s in ("jpg", "seg.png", "cls", "JPG.json")
        }
        write_shard(tmp_path / f"x-{shard}.tar", members)
    for suffix, wanted in (("jpg", "jpg"), ("JPG", "jpg"), ("seg.png", "seg.png")):
        for pattern in (f"x-{{0..1}}.tar?image={suffix}", f"x-?.tar?image={suffix}", f"*.tar?image={suffix}"):
            source = open_source(f"{tmp_path}/{pattern}")
            assert list(source.names) == [f"x-{shard}.tar/{shard}{n}.{wanted}" for shard in range(2) for n in range(3)]
            assert source.read(4).tobytes() == f"{wanted}1".encode()
            assert [source.classes[label] for label in source.labels] == ["cls0", "cls1", "cls2"] * 2
    assert len(open_source(f"{tmp_path}/x-0.tar?image=jpg,seg.png")) == 6
    jpg = tar_shards([f"{tmp_path}/x-0.tar?image=jpg", f"{tmp_path}/x-1.tar?image=jpg"])
    assert jpg.fingerprint == open_source(f"{tmp_path}/*.tar?image=jpg").fingerprint


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("x.tar?image=webp", r"1 shard\(s\) have no images; members named KEY\.webp are images"),
        ("x.tar?image=json", r"\?image=json is not allowed; it must be the text after the first dot"),
        ("x.tar?image=0.jpg,", r"\?image= is not allowed"),
        ("y.tar?image=jpg", "does not exist; correct the name"),
        ("x.tar?images=jpg", "does not exist"),
    ],
)
def test_a_wrong_choice_is_named(tmp_path: Path, pattern: str, rule: str) -> None:
    write_shard(tmp_path / "x.tar", {"0.jpg": b"", "0.json": b""})
    with pytest.raises(ValueError, match=rule):
        open_source(f"{tmp_path}/{pattern}")


def test_two_choices_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", {"0.jpg": b""})
    with pytest.raises(ValueError, match=r"all shards with the same \?image=SUFFIX or none"):
        tar_shards([tmp_path / "x.tar", f"{tmp_path}/x.tar?image=jpg"])
    with pytest.raises(ValueError, match="no pattern"):
        tar_shards([])


def write_members(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        ([("0.jpg", b"a"), ("0.jpg", b"b")], r"two members are named '0\.jpg'"),
        ([("0.jpg", b"a"), ("./0.jpg", b"a")], r"two members are named '0\.jpg'"),
        ([("0.jpg", b"a"), ("0.cls", b"1"), ("0.cls", b"2")], r"two members are named '0\.cls'"),
        ([("0.1.jpg", b"a"), ("0.x.cls", b"1"), ("0.y.cls", b"2")], "several different .*; name the right one '0.cls'"),
        ([("0.jpg", b"a"), ("0.cls", b"1"), ("1.jpg", b"a")], r"1\.jpg has no \.cls member, and other images have"),
        ([("c.0.jpg", b"a"), ("c.0.cls", b"1"), ("c.1.jpg", b"a")], r"c\.1\.jpg has no \.cls member"),
    ],
)  # fmt: skip
def test_members_that_leave_open_what_is_meant_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], rule: str
) -> None:
    write_members(tmp_path / "x.tar", members)
    with pytest.raises(ValueError, match=f"x.tar.*{rule}"):
        open_source(tmp_path / "x.tar")


def test_the_same_label_twice_is_one(tmp_path: Path) -> None:
    write_members(tmp_path / "x.tar", [("0.jpg", b"a"), ("0.cls", b"1"), ("./0.cls", b"1\n")])
    assert labelled(tmp_path / "x.tar") == {"0.jpg": "1"}


@pytest.mark.parametrize(
    "name", ["[x].tar", "a*.tar", "a?.tar", "{a,b}.tar", "{0..3}.tar", "x.tar?image=png.tar", "a{.tar"]
)
def test_a_file_that_exists_is_meant_whatever_its_name(tmp_path: Path, name: str) -> None:
    write_shard(tmp_path / name, {"1.jpg": b"x"})
    write_shard(tmp_path / "ab.tar", {"2.jpg": b"x"})
    assert list(tar_shards(tmp_path / name).names) == [f"{name}/1.jpg"]
    assert list(open_source(tmp_path / name).names) == [f"{name}/1.jpg"]


@pytest.mark.parametrize("folder", ["[2024]", "run {a,b}", "a*", "{0..2}", "b?c/[d]"])
@pytest.mark.parametrize("pattern", ["x-{0..1}.tar", "x-*.tar", "x-[01].tar", "x-?.tar", "{x-0,x-1}.tar?image=jpg"])
def test_folders_that_exist_are_no_patterns(tmp_path: Path, folder: str, pattern: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    for number in range(2):
        write_shard(tmp_path / folder / f"x-{number}.tar", {f"{number}.jpg": b"x"})
    assert list(open_source(f"{tmp_path}/{folder}/{pattern}").names) == ["x-0.tar/0.jpg", "x-1.tar/1.jpg"]


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..99999999}.tar",
        "{a,b}" * 40 + ".tar",
        "{" * 3000 + ".tar",
        "{0..999999999..3}.tar",
        "{{a..z}{0..99999}}.tar",
    ],
)
def test_braces_are_bounded(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(
        ValueError, match=r"braces have more than 1000000 names; correct the range|does not exist"
    ) as error:
        open_source(f"{tmp_path}/{pattern}")
    assert len(str(error.value)) < 4000


def test_relative_shards_stay_the_same_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "x-0.tar", {"1.jpg": b"x"})
    monkeypatch.chdir(tmp_path)
    sources = [open_source(pattern) for pattern in ("x-0.tar", "x-*.tar", "./x-{0..0}.tar")]
    monkeypatch.chdir("/")
    assert [source.read(0).tobytes() for source in sources] == [b"x"] * 3
    assert len({source.fingerprint for source in sources}) == 1


def test_a_folder_with_the_suffix_of_a_shard_is_a_folder(tmp_path: Path) -> None:
    for name in ("x.tar", "x.csv", "x.npz"):
        (tmp_path / name / "a").mkdir(parents=True)
        (tmp_path / name / "a" / "1.jpg").write_bytes(b"x")
        assert open_source(tmp_path / name).classes == ("a",)
