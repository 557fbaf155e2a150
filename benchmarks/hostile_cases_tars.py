"""Try odd keys and labels of tar shards, and damaged shards (A2, A3)."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hostile_cases import Place, Try, tries
from hostile_cases_verdicts import accepted, raises, refused, right

Members = Sequence[tuple[str, bytes]]
_BLOCK = 512


def images(place: Place, count: int) -> list[bytes]:
    return [path.read_bytes() for path in sorted((place.shared / "demo/train/chelsea").iterdir())[:count]]


def tar(members: Members, form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as shard:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return out.getvalue()


def labelled(place: Place, count: int = 8) -> Members:
    pairs = [((f"{i}.jpg", image), (f"{i}.cls", str(i % 2).encode())) for i, image in enumerate(images(place, count))]
    return [member for pair in pairs for member in pair]


def opened_tar(place: Place, path: Path | str, *needles: str) -> tuple[list[str], list[str], list[bytes]] | None:
    """Return the names, labels and contents of a source, or None if it is refused with the needles."""

    def read() -> tuple[list[str], list[str], list[bytes]]:
        from dali_pipelines.sources import open_source

        source = open_source(path)
        labels = [source.classes[label] for label in source.labels] if source.has_labels else []
        return list(source.names), labels, [source.read(index).tobytes() for index in range(len(source))]

    result = place.call(read, 30)
    if raises(result, *(needles or (Path(path).name,))):
        return None
    found: tuple[list[str], list[str], list[bytes]] = result.value
    return found


def _keys(place: Place, names: Sequence[str], suffix: str, must_be_read: bool) -> None:
    """Give each image its own label. The labels must be right, or the shard must be refused."""
    contents = images(place, len(names))
    members = [(f"{name}{suffix}", contents[i]) for i, name in enumerate(names)]
    members += [(f"{name}.cls", f"label{i}".encode()) for i, name in enumerate(names)]
    (place.folder / "s.tar").write_bytes(tar(members, tarfile.PAX_FORMAT))
    found = opened_tar(place, "s.tar")
    if found is None:
        right(not must_be_read, "refused, though right")
        return
    expected = {content: f"label{i}" for i, content in enumerate(contents)}
    right(len(found[0]) == len(names), f"{len(found[0])} images of {len(names)}")
    right(all(expected[content] == label for label, content in zip(found[1], found[2])), f"labels {found[1]}")


_KEYS: dict[str, tuple[Sequence[str], str, bool]] = {
    "versions": ([f"img.v{i}" for i in range(4)], ".jpg", False),
    "dates": ([f"2024.01.0{i}_12.30" for i in range(4)], ".jpg", False),
    "decimals": ([f"sample-0.{i}" for i in range(4)], ".png", False),
    "dots in folders": ([f"n.{i}/image" for i in range(4)], ".jpg", True),
    "a leading ./": ([f"./{i}" for i in range(4)], ".jpg", True),
    "hidden names": ([f".{i}" for i in range(3)], ".jpg", False),
    "only one with a dot": (["a", "b", "c.d"], ".jpg", False),
    "a name within another": (["a", "a.b", "a.b.c"], ".jpg", False),
    "the same name twice": (["a", "a"], ".jpg", False),
    "upper case": (["A", "a", "B"], ".JPG", True),
    "long names": (["x" * 150 + str(i) for i in range(4)], ".jpg", True),
    "other scripts": ([f"画像{i}" for i in range(4)], ".jpg", True),
    "no dots, as it should be": ([f"{i:06d}" for i in range(4)], ".jpg", True),
    "the same name in folders": ([f"{i}/image" for i in range(4)], ".jpg", True),
}


def _label(place: Place, label: bytes, is_right: bool) -> None:
    """Add one odd .cls to good ones."""
    members = list(labelled(place, 4))
    members[1] = ("0.cls", label)
    (place.folder / "s.tar").write_bytes(tar(members))
    found = opened_tar(place, "s.tar")
    right(found is None or is_right, f"a label was made of it: {found and found[1][:1]}")


_LABELS: dict[str, tuple[bytes, bool]] = {
    "empty": (b"", False),
    "spaces alone": (b" \n", False),
    "not UTF-8": (b"\xff\xfe", False),
    "a word, which is right": (b"cat\n", True),
    "a line's end, which is right": (b"1\r\n", True),
}


def _cut(place: Place, where: Callable[[bytes, list[tarfile.TarInfo]], int]) -> None:
    """Truncate a shard. All its images must be read, or the shard must be refused by its name."""
    whole = tar(labelled(place))
    (place.folder / "s.tar").write_bytes(whole[: where(whole, _infos(whole))])
    _all_or_refused(place, place.folder / "s.tar", 8)


def _infos(whole: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(whole)) as shard:
        return shard.getmembers()


def _all_or_refused(place: Place, path: Path, count: int, exact: bool = True) -> None:
    found = opened_tar(place, path)
    if found is not None:
        right(len(found[0]) == count or not exact, f"{len(found[0])} images of {count}")
        right(len(found[0]) > 0 and all(content[:2] == b"\xff\xd8" for content in found[2]), "bytes of no image")
    result = place.bt("scan", path, "-o", "s")
    if found is None:
        refused(result, path.name)


_CUTS: dict[str, Callable[[bytes, list[tarfile.TarInfo]], int]] = {
    "in a header": lambda whole, infos: infos[4].offset + 100,
    "at a header": lambda whole, infos: infos[6].offset,
    "after a header": lambda whole, infos: infos[4].offset_data,
    "in an image": lambda whole, infos: infos[4].offset_data + 700,
    "in the padding": lambda whole, infos: infos[4].offset_data + infos[4].size + 3,
    "in a label": lambda whole, infos: infos[5].offset_data + 1,
    "in the last header": lambda whole, infos: infos[-1].offset + 300,
    "before the end": lambda whole, infos: infos[-1].offset_data + _BLOCK,
    "one block of the end": lambda whole, infos: infos[-1].offset_data + 2 * _BLOCK,
    "after 3 bytes": lambda whole, infos: 3,
    "nothing": lambda whole, infos: 0,
}


def _patched(place: Place, change: Callable[[bytearray, list[tarfile.TarInfo]], Any]) -> None:
    content = bytearray(tar(labelled(place)))
    change(content, _infos(bytes(content)))
    (place.folder / "s.tar").write_bytes(content)
    refused(place.bt("scan", "s.tar", "-o", "s"), "s.tar")


def _set(
    at: int, value: bytes, number: int = 6, sealed: bool = False
) -> Callable[[bytearray, list[tarfile.TarInfo]], None]:
    def change(content: bytearray, infos: list[tarfile.TarInfo]) -> None:
        begin = infos[number].offset
        content[begin + at : begin + at + len(value)] = value
        if sealed:
            content[begin + 148 : begin + 156] = b" " * 8
            total = sum(content[begin : begin + _BLOCK])
            content[begin + 148 : begin + 156] = f"{total:06o}\0 ".encode()

    return change


def _zeros(number: int, blocks: int) -> Callable[[bytearray, list[tarfile.TarInfo]], None]:
    def change(content: bytearray, infos: list[tarfile.TarInfo]) -> None:
        content[infos[number].offset : infos[number].offset + blocks * _BLOCK] = bytes(blocks * _BLOCK)

    return change


_PATCHES: dict[str, Callable[[bytearray, list[tarfile.TarInfo]], Any]] = {
    "a byte of a header": _set(20, b"X"),
    "a header of noise": _set(0, random.Random(0).randbytes(_BLOCK)),
    "a header of text": _set(0, b"\n" * _BLOCK),
    "the checksum": _set(148, b"000000"),
    "a size that is too large": _set(124, b"00077777777", sealed=True),
    "a size that is no number": _set(124, b"zzzzzzzzzzz", sealed=True),
    "a negative size": _set(124, b"\xff" * 12, sealed=True),
    "a size that is too small": _set(124, b"00000000003", sealed=True),
    "a size of 2^60": _set(124, b"\x80\0\0\0" + (2**60).to_bytes(8, "big"), sealed=True),
    "one block of zeros between members": _zeros(6, 1),
    "the first header": _set(20, b"X", number=0),
    "the last header": _set(20, b"X", number=-1),
}


def _other(place: Place, build: Callable[[Place], bytes], count: int | None, must_be_read: bool) -> None:
    """Read another kind of tar file. All its images must be read, or the file must be refused by its name."""
    (place.folder / "s.tar").write_bytes(build(place))
    if must_be_read:
        found = opened_tar(place, "s.tar")
        if found is None:
            accepted(place.bt("scan", "s.tar", "-o", "s"))
        assert found is not None
        right(len(found[0]) == count, f"{len(found[0])} images of {count}")
    elif count is None:
        refused(place.bt("scan", "s.tar", "-o", "s"), "s.tar")
    else:
        _all_or_refused(place, place.folder / "s.tar", count)


def _with(place: Place, kind: bytes, link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as shard:
        for number, (name, content) in enumerate(labelled(place)):
            if number == 4:
                info = tarfile.TarInfo("odd.jpg")
                info.type, info.linkname = kind, link
                shard.addfile(info)
                label = tarfile.TarInfo("odd.cls")
                label.size = 1
                shard.addfile(label, io.BytesIO(b"0"))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return out.getvalue()


_OTHERS: dict[str, tuple[Callable[[Place], bytes], int | None, bool]] = {
    "gzip": (lambda place: gzip.compress(tar(labelled(place))), None, False),
    "a zip": (lambda place: b"PK\3\4" + bytes(600), None, False),
    "an HTML page": (lambda place: b"<html>404 not found</html>" * 50, None, False),
    "zeros alone": (lambda place: bytes(10240), None, False),
    "noise": (lambda place: random.Random(1).randbytes(10240), None, False),
    "two shards joined": (lambda place: tar(labelled(place, 4)) + tar(labelled(place, 8)[8:]), 8, False),
    "noise after the end": (lambda place: tar(labelled(place)) + random.Random(2).randbytes(_BLOCK * 3), 8, False),
    "a long tail of zeros, which is right": (lambda place: tar(labelled(place)) + bytes(1 << 20), 8, True),
    "an odd tail of zeros, which is right": (lambda place: tar(labelled(place)) + bytes(77), 8, True),
    "PAX headers, which are right": (lambda place: tar(labelled(place), tarfile.PAX_FORMAT), 8, True),
    "GNU headers, which are right": (lambda place: tar(labelled(place), tarfile.GNU_FORMAT), 8, True),
    "a directory, which is right": (lambda place: _with(place, tarfile.DIRTYPE), 8, True),
    "a FIFO as a member": (lambda place: _with(place, tarfile.FIFOTYPE), 8, False),
    "a symbolic link as a member": (lambda place: _with(place, tarfile.SYMTYPE, "/etc/passwd"), 8, False),
    "a hard link as a member": (lambda place: _with(place, tarfile.LNKTYPE, "0.jpg"), 8, False),
}


def all_tries() -> list[Try]:
    found = tries("A2", _KEYS, _keys)
    found += tries("A2", {f"a label: {name}": case for name, case in _LABELS.items()}, _label)
    found += tries("A3", {f"cut {name}": case for name, case in _CUTS.items()}, _cut)
    found += tries("A3", {f"damaged: {name}": case for name, case in _PATCHES.items()}, _patched)
    found += tries("A3", _OTHERS, _other)
    return found
