"""Tar files that are damaged, cut, appended to, or whose headers claim what is not there."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dali_pipelines import open_source, tar_shards
from tests.tar_files import write_shard

WITHIN = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MEMBERS = {
    f"{number}.{suffix}": content
    for number in range(6)
    for suffix, content in (("jpg", bytes([number + 1]) * (300 + 400 * number)), ("cls", str(number % 2).encode()))
}


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    return write_shard(tmp_path / "whole.tar", MEMBERS).read_bytes()


def contents(path: Path) -> dict[str, tuple[str, bytes]]:
    source = tar_shards(path)
    return {
        source.names[index].rpartition("/")[2]: (source.classes[source.labels[index]], source.read(index).tobytes())
        for index in range(len(source))
    }


EXPECTED = {
    name: (MEMBERS[f"{name[0]}.cls"].decode(), content) for name, content in MEMBERS.items() if name.endswith(".jpg")
}


def test_every_cut_is_refused_but_those_of_the_padding(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "cut.tar"
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for size in range(0, len(whole), 128):
        path.write_bytes(whole[:size])
        if size < end + 1024:
            with pytest.raises(ValueError, match=r"cut\.tar: .*whole, uncompressed tar"):
                tar_shards(path)
        else:
            assert contents(path) == EXPECTED


def test_every_damaged_header_is_refused(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(fileobj=io.BytesIO(whole)) as file:
        headers = [member.offset for member in file]
    for header in headers:
        for place in (0, 124, 148, 300):
            content = bytearray(whole)
            content[header + place] ^= 0x41
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"bad\.tar: .*(byte {header} |invalid|checksum)"):
                tar_shards(path)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda whole: whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 512], "truncated at byte"),
        (lambda whole: whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 1024], "truncated at byte"),
        (lambda whole: whole + whole, "data follow the end at byte .*second shard"),
        (lambda whole: whole[:-1] + b"x", "data follow the end"),
        (lambda whole: whole + bytes(2**20) + b"x", "data follow the end"),
        (lambda whole: whole + bytes(2**27), "bytes follow the end"),
        (lambda whole: b"", "empty file"),
        (lambda whole: whole[512:], "."),
        (lambda whole: b"\x1f\x8b" + whole, "."),
    ],
)
def test_the_end_is_proven(tmp_path: Path, whole: bytes, change: Callable[[bytes], bytes], rule: str) -> None:
    (tmp_path / "x.tar").write_bytes(change(whole))
    with pytest.raises(ValueError, match=rf"x\.tar: .*{rule}.*whole, uncompressed tar"):
        open_source(tmp_path / "x.tar")


def with_field(header: bytes, begin: int, field: bytes) -> bytes:
    """A header with a changed field, and the checksum that fits."""
    changed = bytearray(header)
    changed[begin : begin + len(field)] = field
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed)


def negative(size: int) -> bytes:
    """In base 256, as GNU tar writes large numbers."""
    return b"\xff" + struct.pack(">q", 0)[:3] + struct.pack(">q", size)


@pytest.mark.parametrize("size", [b"77777777777\0", negative(-512), negative(-1024), negative(-(10**6)), negative(-1)])
@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"S", b"7", b"5"])
@pytest.mark.parametrize("number", [0, 3])
def test_sizes_that_lie_end_in_an_error_at_once(
    tmp_path: Path, whole: bytes, size: bytes, kind: bytes, number: int
) -> None:
    """Among them the endless loop of negative sizes, CVE-2025-8194."""
    with tarfile.open(fileobj=io.BytesIO(whole)) as file:
        offset = file.getmembers()[number].offset
    header = with_field(with_field(whole[offset : offset + 512], 124, size[:12]), 156, kind)
    (tmp_path / "x.tar").write_bytes(whole[:offset] + header + whole[offset + 512 :])
    try:
        found = contents(tmp_path / "x.tar")
    except ValueError as error:
        assert "x.tar" in str(error)  # noqa: PT017
    else:
        # A folder has no bytes, whatever its size says.
        assert kind == b"5"
        assert found == {}


def extended(records: bytes, kind: bytes = b"x") -> bytes:
    """An extended header."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.size, info.type = len(records), kind
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


@pytest.mark.parametrize(
    "begin",
    [
        extended(b"20 comment=" + b"x" * 2**21),
        extended(b"a" * 2**21, b"L"),
        b"".join(extended(b"name\0", b"L") for _ in range(2000)),
        extended(b"18 size=-99999999\n"),
        extended(b"13 size=huge\n"),
        extended(
            b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.name=0.jpg\n31 GNU.sparse.realsize=1000000\n"
        ),
    ],
)
def test_extended_headers_are_bounded(tmp_path: Path, whole: bytes, begin: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(begin + whole)
    with pytest.raises(ValueError, match=r"x\.tar: "):
        open_source(tmp_path / "x.tar")


def test_sparse_members_are_refused(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(with_field(whole[:512], 156, b"S") + whole[512:])
    with pytest.raises(ValueError, match=r"x\.tar: the member '0\.jpg' is sparse; write the shard without --sparse"):
        open_source(tmp_path / "x.tar")


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_and_names_that_are_not_ascii_are_read(tmp_path: Path, format_: int) -> None:
    name = f"{'ordner' * 12}/{'bild' * 20}ä.jpg"
    with tarfile.open(tmp_path / "x.tar", "w", format=format_) as file:
        info = tarfile.TarInfo(name)
        info.size = 3
        file.addfile(info, io.BytesIO(b"abc"))
    assert list(tar_shards(tmp_path / "x.tar").names) == [f"x.tar/{name}"]


def test_links_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    os.link(tmp_path / "1.jpg", tmp_path / "2.jpg")
    (tmp_path / "3.jpg").symlink_to("1.jpg")
    (tmp_path / "._4.jpg").write_bytes(b"what macOS adds")
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for name in ("1.jpg", "2.jpg", "3.jpg", "._4.jpg"):
            file.add(tmp_path / name, name)
    assert list(tar_shards(tmp_path / "x.tar").names) == ["x.tar/1.jpg"]
    assert (
        "2 members are links and are left out, such as x.tar/2.jpg; write the shards with --dereference" in caplog.text
    )


@pytest.mark.parametrize(
    ("label", "rule"),
    [
        (b"9" * 5000, "5000 bytes; a class has at most 1000"),
        ("ä".encode() * 1001, "more than 1000"),
        ("käse".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_classes_are_short_texts(tmp_path: Path, label: bytes, rule: str) -> None:
    write_shard(tmp_path / "x.tar", {"1.jpg": b"x", "1.cls": label})
    with pytest.raises(ValueError, match=rf"x\.tar: '1\.cls' .*{rule}"):
        open_source(tmp_path / "x.tar")


@given(data=st.data())
@WITHIN
def test_a_damaged_shard_is_whole_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = write_shard(tmp_path / "whole.tar", MEMBERS).read_bytes()
    content = bytearray(whole)
    if data.draw(st.booleans(), "is cut"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    try:
        found = contents(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        # Of the bytes of members there is no checksum.
        differing = [name for name in EXPECTED if found[name] != EXPECTED[name]]
        assert list(found) == list(EXPECTED)
        assert len(differing) <= 1


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([b"0", b"1", b"2", b"5", b"x", b"g", b"L", b"K", b"S", b"V", b"\0", b"\xff"]),
            st.binary(min_size=1, max_size=12) | st.integers(0, 2000).map(b"%011o\0".__mod__),
            st.binary(max_size=100),
            st.binary(max_size=1500),
        ),
        max_size=6,
    )
)
@WITHIN
def test_any_headers_are_read_or_refused(tmp_path: Path, headers: list[tuple[bytes, bytes, bytes, bytes]]) -> None:
    path = tmp_path / "x.tar"
    blank = tarfile.TarInfo("1.jpg").tobuf(tarfile.GNU_FORMAT)
    with open(path, "wb") as file:
        for kind, size, name, content in headers:
            header = with_field(with_field(with_field(blank, 156, kind), 124, size), 0, name)
            file.write(header + content + bytes(-len(content) % 512))
        file.write(bytes(10240))
    try:
        source = open_source(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert sum(source.read(index).size for index in range(len(source))) <= path.stat().st_size
