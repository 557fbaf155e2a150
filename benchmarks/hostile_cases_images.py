"""Try formats of images, and entries that are not regular files (A10, C1, D7)."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_cases import Place, Try, tries
from hostile_cases_depths import DEPTHS, pil, png, rgb, scaled, tiff
from hostile_cases_verdicts import accepted, either, refused, right, sound
from PIL import Image


def _suffix(place: Place, suffix: str) -> None:
    """Add a file with another suffix that other programs read as an image. It must become an image of its class."""
    folder = place.classes()
    image = next((place.data / "train").glob("*/*.jpg"))
    if suffix in (".dib", ".pbm"):
        form = {".dib": "DIB", ".pbm": "PPM"}[suffix]
        with Image.open(image) as opened:
            opened.convert("1" if suffix == ".pbm" else "RGB").save(folder / "c0" / f"more{suffix}", form)
    else:
        shutil.copy(image, folder / "c0" / f"more{suffix}")
    result = sound(place.bt("scan", folder, "-o", "s"))
    right("9 good" in result.out or suffix in result.out + result.err, f"left out silently: {result.out!r}")


def _order(place: Place, names: tuple[str, ...], form: str) -> None:
    """Read the same images as class folders, and as a list or shard. The labels must mean the same."""
    import tarfile

    folder = place.classes(classes=names, count=2)
    files = [(path, path.parent.name) for path in sorted(folder.glob("*/*.jpg"))]
    other = place.folder / f"same{form}"
    if form == ".csv":
        other.write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in reversed(files)))
    else:
        with tarfile.open(other, "w") as shard:
            for number, (path, name) in enumerate(files):
                for suffix, content in ((".jpg", path.read_bytes()), (".cls", name.encode())):
                    info = tarfile.TarInfo(f"{number:03d}{suffix}")
                    info.size = len(content)
                    shard.addfile(info, io.BytesIO(content))
    for train, val in ((folder, other), (other, folder)):
        view = ("view.size_px=32", "view.resize_px=32", "knn.k=1", "run.device=cpu")
        result = accepted(place.bt("knn", "pixels", f"data.train={train}", f"data.val={val}", *view))
        right("100.0" in result.out, f"the same images have other labels: {result.out[-200:]!r}")


def _dali_run(place: Place, name: str, build: Callable[[], bytes], most: int) -> None:
    """Add an odd image to good ones. It must not end a run on DALI; with max_bad_files=0 the run must name it."""
    folder = place.classes()
    (folder / "c1" / name).write_bytes(build())
    result = place.bt(
        *("pretrain", place.recipe, f"data.train={folder}", "data.val=null", "data.backend=dali", "optim.epochs=2"),
        *(f"data.max_bad_files={most}", "run.output_dir=run", "optim.global_batch_size=9", "eval.every_epochs=null"),
    )
    if most:
        accepted(result)
    else:
        either(result, name)


_ODD: dict[str, Callable[[], bytes]] = {
    name: DEPTHS[name][0]
    for name in (
        "1 bit.tif",
        "int8.tif",
        "int16.tif",
        "int32 to 65535.tif",
        "uint32 to 2^32.tif",
        "float32 in [0,1].tif",
    )
} | {
    "deflated.tif": lambda: tiff(rgb(scaled(255, "u1")), compression="zlib", predictor=True),
    "tiled.tif": lambda: tiff(scaled(65535, "u2"), tile=(16, 16)),
    "pages.tif": lambda: tiff(np.stack([scaled(255, "u1")] * 3), photometric="minisblack"),
    "big.tif": lambda: tiff(scaled(255, "i2"), bigtiff=True),
    "cmyk.tif": lambda: _cmyk("TIFF"),
    "cmyk.jpg": lambda: _cmyk("JPEG"),
    "cut.png": lambda: png(8, 2)[:90],
    "cut.jpg": lambda: pil(rgb(scaled(255, "u1")), "JPEG")[:300],
    "text.png": lambda: b"<html>404</html>",
    "empty.jpg": lambda: b"",
    "huge.png": lambda: png(8, 0).replace(struct.pack(">II", 32, 32), struct.pack(">II", 60000, 60000)),
    "plain 1 bit.pnm": lambda: b"P1\n32 32\n" + b"01 " * 512,
}


def _cmyk(form: str) -> bytes:
    out = io.BytesIO()
    Image.new("CMYK", (32, 32), (10, 20, 30, 40)).save(out, form)
    return out.getvalue()


def _no_file(place: Place, make: Callable[[Path], object], where: str, command: str) -> None:
    """Add an entry that is not a regular file. It must be a bad file, and must not block any command."""
    folder = place.classes(count=6)
    data = {"class": folder, "flat": folder / "c1", "list": place.folder / "list.csv"}[where]
    make(folder / "c1" / "odd.jpg")
    if where == "list":
        rows = "".join(f"{path},{path.parent.name}\n" for path in sorted(folder.glob("*/*.jpg")))
        data.write_text("path,label\n" + rows)
    if command == "scan":
        result = accepted(place.bt("scan", data, "-o", "s", limit=20))
        bad = (place.folder / "s/bad.csv").read_text()
        if (folder / "c1/odd.jpg").is_dir():
            right(
                f"{6 if where == 'flat' else 12} good" in result.out,
                "images of a folder that was linked to count twice",
            )
        else:
            right("odd.jpg" in bad, "not among the bad files")
    elif command == "doctor":
        result = place.bt("doctor", place.recipe, f"data.train={data}", "run.output_dir=run", limit=40)
        sound(result, 20000)
    else:
        changes = (
            f"data.train={data}",
            "data.val=null",
            "run.output_dir=run",
            "optim.epochs=2",
            "optim.global_batch_size=12",
        )
        result = place.bt("pretrain", place.recipe, *changes, limit=60)
        accepted(result)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


def _link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def _fifo_link(path: Path) -> None:
    os.mkfifo(path.parent.parent.parent / "pipe")
    path.symlink_to(path.parent.parent.parent / "pipe")


_NO_FILES: dict[str, Callable[[Path], object]] = {
    "FIFO": _fifo,
    "socket": _socket,
    "link to a FIFO": _fifo_link,
    "link to /dev/zero": _link("/dev/zero"),
    "link to /dev/tty": _link("/dev/tty"),
    "link to /dev/full": _link("/dev/full"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": _link("nowhere.jpg"),
    "link to a folder": lambda path: path.symlink_to(path.parent.parent / "c0"),
}


def _in_the_way(place: Place, name: str, arguments: tuple[str, ...]) -> None:
    """Give a FIFO to a command instead of a file. The command must refuse it by name at once."""
    os.mkfifo(place.folder / name)
    (place.folder / "m").mkdir()
    refused(place.bt(*(text.replace("RECIPE", str(place.recipe)) for text in arguments), limit=20), name)


_READERS = {
    "a recipe is a FIFO": ("r.yaml", ("check", "r.yaml")),
    "a list is a FIFO": ("l.csv", ("scan", "l.csv", "-o", "s")),
    "a shard is a FIFO": ("s.tar", ("scan", "s.tar", "-o", "s")),
    "an array is a FIFO": ("a.npy", ("scan", "a.npy", "-o", "s")),
    "an archive is a FIFO": ("a.npz", ("check", "RECIPE", "data.train=a.npz", "data.val=null")),
    "weights are a FIFO": ("w.pth", ("import", "w.pth", "-o", "o")),
    "tensors are a FIFO": ("w.safetensors", ("knn", "w.safetensors")),
    "the images are a FIFO": ("pipe", ("scan", "pipe", "-o", "s")),
}


def _signal(place: Place, number: signal.Signals, command: str) -> None:
    """Send a signal to a command while it reads. The command must end."""
    folder = place.folder / "many"
    folder.mkdir()
    image = next((place.data / "train").glob("*/*.jpg"))
    for each in range(20000):
        os.link(image, folder / f"{each}.jpg") if each == 0 else os.symlink("0.jpg", folder / f"{each}.jpg")
    changes = (place.recipe, f"data.train={folder}", "data.val=null", "run.output_dir=run")
    process = place.start("scan", folder, "-o", "s") if command == "scan" else place.start("pretrain", *changes)
    process.until(lambda: process.has_open("/many/") or (place.folder / "run/metrics.jsonl").exists(), 20)
    process.send(number)
    result = sound_or_signal(process.wait(20), number)
    right(result.code != 0, "a signal was ignored")


def sound_or_signal(result: Any, number: int) -> Any:
    """Check the exit status of a command after a signal. The command may die of the signal."""
    if result.code == -number:
        result.code = 128 + number
    sound(result, 20000)
    right(result.code in (75, 128 + number, 2), f"exit {result.code} {result.tail}")
    return result


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    suffixes = (".jfif", ".JFIF", ".jpe", ".JPEG", ".pbm", ".dib")
    found = tries("A10", {f"suffix {suffix}": suffix for suffix in suffixes}, _suffix)
    numbers = tuple(str(number) for number in range(12))
    orders = {"0 to 11": numbers, "-1, 0, 10, 9": ("-1", "0", "10", "9"), "words and numbers": ("10", "9", "b")}
    for form in (".csv", ".tar"):
        found += tries("A10", {f"classes {name} in {form}": (names, form) for name, names in orders.items()}, _order)
    found += tries("D7", {f"{name} in a run on DALI": (name, build, 100) for name, build in _ODD.items()}, _dali_run)
    strict = {f"{name}, no bad file allowed": (name, _ODD[name], 0) for name in ("1 bit.tif", "int16.tif", "cut.png")}
    found += tries("D7", strict, _dali_run)
    found += tries(
        "C1", {f"{name} among images": (make, "class", "scan") for name, make in _NO_FILES.items()}, _no_file
    )
    for where, command in (
        ("flat", "scan"),
        ("list", "scan"),
        ("class", "pretrain"),
        ("list", "pretrain"),
        ("class", "doctor"),
    ):
        some = {name: _NO_FILES[name] for name in ("FIFO", "link to /dev/zero")}
        found += tries("C1", {f"{name}, {where}, {command}": (m, where, command) for name, m in some.items()}, _no_file)
    found += tries("C1", _READERS, _in_the_way)
    for number in (signal.SIGTERM, signal.SIGINT):
        found += tries("C1", {f"{number.name} while {c} reads": (number, c) for c in ("scan", "pretrain")}, _signal)
    return found
