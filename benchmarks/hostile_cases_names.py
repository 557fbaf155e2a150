"""Try missing permissions and odd names (A11, D4)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from hostile_cases import Place, Try, tries
from hostile_cases_lists import opened, rows_of
from hostile_cases_verdicts import accepted, either, helpful, refused, right, sound


def _rights(place: Place, closed: str, mode: int, arguments: tuple[str, ...], needle: str) -> None:
    """Make one path unreadable. The message must name it, although all other paths can be read."""
    folder = place.classes()
    (folder / "c0/deep/deeper").mkdir(parents=True)
    shutil.copy(folder / "c0/0.jpg", folder / "c0/deep/deeper/9.jpg")
    rows = "".join(f"{path},{label}\n" for path, label in rows_of(folder))
    (place.folder / "list.csv").write_text(rows)
    shutil.copy(place.recipe, place.folder / "r.yaml")
    (place.folder / "shards").mkdir()
    import tarfile

    with tarfile.open(place.folder / "shards/0.tar", "w") as shard:
        shard.add(folder / "c0/0.jpg", "0.jpg")
    (place.folder / closed).chmod(mode)
    texts = [text.replace("RECIPE", str(place.recipe)) for text in arguments]
    result = place.bt(*texts, powerless=True)
    if closed.endswith(".jpg"):
        accepted(result)
        right(needle in (place.folder / "s/bad.csv").read_text(), "not among the bad files")
    else:
        refused(result, needle)


_SCAN = ("scan", "images", "-o", "s")
_CHECK = ("check", "RECIPE", "data.val=null", "data.train=images")
_RIGHTS: dict[str, tuple[Any, ...]] = {
    "a sub-folder of a class": ("images/c0/deep", 0, _SCAN, "deep"),
    "a sub-folder of a sub-folder": ("images/c0/deep/deeper", 0, _SCAN, "deeper"),
    "a class": ("images/c1", 0, _CHECK, "c1"),
    "the images": ("images", 0, _CHECK, "images"),
    "a class that may be listed only": ("images/c1", 0o444, _SCAN, "c1"),
    "a class that may be entered only": ("images/c1", 0o111, _SCAN, "c1"),
    "an image": ("images/c1/0.jpg", 0, _SCAN, "0.jpg"),
    "a list": ("list.csv", 0, ("scan", "list.csv", "-o", "s"), "list.csv"),
    "a recipe": ("r.yaml", 0, ("check", "r.yaml"), "r.yaml"),
    "a shard": ("shards/0.tar", 0, ("scan", "shards/0.tar", "-o", "s"), "0.tar"),
    "the folder of shards": ("shards", 0, ("scan", "shards/*.tar", "-o", "s"), "shards"),
    "sub-folders in a run": (
        "images/c0/deep",
        0,
        ("pretrain", "RECIPE", "data.train=images", "data.val=null", "run.output_dir=x"),
        "deep",
    ),
    "a class of the validation set": (
        *("images/c1", 0, ("knn", "pixels", "data.train=images", "data.val=images")),
        "c1",
    ),
}


def _name(place: Place, name: bytes, what: str) -> None:
    """Scan an image or class with an odd name. The good.csv of `scan` must list the same images."""
    folder = place.classes(count=2)
    if what == "image":
        os.rename(os.fsencode(folder / "c0/1.jpg"), os.fsencode(folder / "c0") + b"/" + name + b".jpg")
    else:
        os.rename(os.fsencode(folder / "c0"), os.fsencode(folder) + b"/" + name)
    accepted(place.bt("scan", folder, "-o", "s"))
    found, again = opened(place, folder), opened(place, place.folder / "s/good.csv")
    helpful(found is not None and again is not None, "not read again")
    assert found is not None
    assert again is not None
    right(
        [os.path.realpath(folder / each) for each in found[0]] == [os.path.realpath(each) for each in again[0]], again
    )
    right(found[1] == again[1], f"labels {again[1]} instead of {found[1]}")
    view = ("view.size_px=32", "view.resize_px=32", "run.device=cpu")
    accepted(place.bt("embed", "pixels", folder, "-o", "e.npz", *view))
    names = np.load(place.folder / "e.npz")["names"]
    right(len(names) == 4, f"{len(names)} names")


_NAMES = {
    "Latin-1": b"caf\xe9",
    "bytes that are no text": b"\xff\xfe\x80",
    "half a character": b"x\xc3",
    "a surrogate": b"\xed\xa0\x80",
    "a line feed": b"a\nb",
    "a comma and quotes": b'a,"b"',
    "spaces at both ends": b" a ",
    "markup": b"<img src=x>&amp;",
    "right to left": "\u202egpj".encode(),
    "brackets and stars": b"[a-z]*{0..9}",
    "an equals sign": b"path=label",
}


def _run_name(place: Place, name: bytes) -> None:
    """Give the directory of a run an odd name. report, knn and export must work."""
    run = os.fsdecode(os.fsencode(place.folder) + b"/" + name)
    shutil.copytree(place.shared / "run", run)
    accepted(place.bt("report", run))
    page = (Path(run) / "report.html").read_bytes()
    right(page.decode("utf-8", "replace").count("\ufffd") < 50 and b"<script>alert" not in page, "the page is not text")
    accepted(place.bt("knn", run))
    either(place.bt("export", run, "--to", "safetensors"))


def _odd_output(place: Place, name: bytes) -> None:
    """Give an output an odd name. It must be written, or refused."""
    folder = place.classes(count=2)
    output = os.fsdecode(name)
    if either(place.bt("scan", folder, "-o", output)):
        right(os.path.exists(os.fsencode(place.folder) + b"/" + name + b"/good.csv"), "not there")


def _control(place: Place, name: str) -> None:
    """Put escape sequences into a name. They must not reach the terminal."""
    folder = place.classes(count=2)
    (folder / "c0" / f"{name}.jpg").write_bytes(b"no image")
    changes = (
        f"data.train={folder}",
        "data.val=null",
        "run.output_dir=run",
        "optim.epochs=2",
        "optim.global_batch_size=4",
    )
    for arguments in (
        ("scan", folder, "-o", "s"),
        ("scan", folder / name, "-o", "t"),
        ("pretrain", place.recipe, *changes),
    ):
        sound(place.bt(*arguments))


def _utf8(place: Place, content: bytes) -> None:
    """Read a list with names that are not UTF-8. It must be refused with file and line, or give these images."""
    folder = place.classes(count=2)
    shutil.copy(folder / "c0/0.jpg", os.fsencode(folder / "c0") + b"/caf\xe9.jpg")
    (place.folder / "list.txt").write_bytes(content)
    result = place.bt("scan", "list.txt", "-o", "s")
    if either(result, "list.txt", "line"):
        right("0 bad" in result.out, f"read as other names: {result.out!r}")


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    found = tries("A11", _RIGHTS, _rights, needs_root=True)
    found += tries("D4", {f"an image called {name}": (text, "image") for name, text in _NAMES.items()}, _name)
    some = ("Latin-1", "a line feed", "a comma and quotes", "spaces at both ends")
    found += tries("D4", {f"a class called {name}": (_NAMES[name], "class") for name in some}, _name)
    runs = {"Latin-1": b"caf\xe9", "markup": b"<script>alert(1)<", "a line feed": b"a\nb"}
    found += tries("D4", {f"a run called {name}": text for name, text in runs.items()}, _run_name)
    found += tries("D4", {f"an output called {name}": _NAMES[name] for name in ("Latin-1", "markup")}, _odd_output)
    escapes = {"a title": "\x1b]0;pwn\x07", "a clear screen": "\x1b[2J\x1b[H", "an eight-bit one": "\x9b2J"}
    found += tries("D4", {f"escapes in a name: {name}": text for name, text in escapes.items()}, _control)
    found += tries("E", {"a list in Latin-1": b"images/c0/caf\xe9.jpg\nimages/c0/0.jpg\n"}, _utf8)
    return found
