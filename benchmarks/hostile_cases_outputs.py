"""Try outputs that cannot be written, and full disks (D1, D2)."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from functools import partial

from hostile_cases import Place, Try, tries
from hostile_cases_hosts import small_disk
from hostile_cases_verdicts import accepted, either, refused, right, sound
from hostile_cases_weights import NETWORK, state

_VIEW = ("view.size_px=32", "view.resize_px=32", "run.device=cpu")

# The commands, and the suffixes of their outputs. OUT stands for the output.
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "pretrain": ("", ("pretrain", "RECIPE", "run.output_dir=OUT", "run.max_steps=4")),
    "scan": ("", ("scan", "DATA", "-o", "OUT")),
    "demo-data": ("", ("demo-data", "OUT")),
    "preview": (".png", ("preview", "RECIPE", "--images", "4", "-o", "OUT")),
    "embed": (".npz", ("embed", "pixels", "DATA", "-o", "OUT", *_VIEW)),
    "report": (".html", ("report", "RUN", "--map-images", "0", "-o", "OUT")),
    "export": (".safetensors", ("export", "RUN", "--to", "safetensors", "-o", "OUT")),
    "import": ("", ("import", "WEIGHTS", "--backbone", NETWORK, "-o", "OUT")),
    "knn": ("", ("knn", "pixels", "data.train=DATA", "data.val=DATA", "run.output_dir=OUT", *_VIEW)),
    "bench": (".json", ("bench", "RECIPE", "--seconds", "1", "-o", "OUT")),
}


def arguments(place: Place, command: str, output: str) -> list[str]:
    weights = place.folder / "w.pth"
    if command == "import" and not weights.exists():
        import torch

        torch.save(state(place), weights)
    names = {"RECIPE": place.recipe, "DATA": place.data / "val", "RUN": place.shared / "run", "WEIGHTS": weights}
    texts = list(COMMANDS[command][1])
    for name, value in names.items():
        texts = [text.replace(name, str(value)) for text in texts]
    return [text.replace("OUT", output) for text in texts]


def _below_a_file(place: Place, suffix: str) -> str:
    (place.folder / "file").write_text("the user's")
    return f"file/deep/x{suffix}"


def _read_only(place: Place, suffix: str) -> str:
    (place.folder / "ro").mkdir(mode=0o555)
    return f"ro/x{suffix}"


def _loop(place: Place, suffix: str) -> str:
    os.symlink("loop", place.folder / "loop")
    return f"loop/x{suffix}"


def _not_file(place: Place, suffix: str) -> str:
    """Create a folder at the path of a file, or a file at the path of a folder."""
    path = place.folder / f"there{suffix}"
    if suffix:
        path.mkdir()
        (path / "precious").write_text("the user's")
        return path.name
    path.write_text("the user's")
    return path.name


def _fifo(place: Place, suffix: str) -> str:
    os.mkfifo(place.folder / f"pipe{suffix}")
    return f"pipe{suffix}"


def _dangling(place: Place, suffix: str) -> str:
    os.symlink("/nowhere/at/all", place.folder / f"link{suffix}")
    return f"link{suffix}"


_PLACES: dict[str, Callable[[Place, str], str]] = {
    "below a device": lambda place, suffix: f"/dev/null/x{suffix}",
    "below a file": _below_a_file,
    "in a folder that may not be written": _read_only,
    "in /proc": lambda place, suffix: f"/proc/x{suffix}",
    "a name of 300 letters": lambda place, suffix: "n" * 300 + suffix,
    "a path of 5,000 letters": lambda place, suffix: "d/" * 2500 + f"x{suffix}",
    "NUL": lambda place, suffix: f"a\0b{suffix}",
    "in links that lead to each other": _loop,
    "another kind of thing": _not_file,
    "a FIFO": _fifo,
    "a link to nowhere": _dangling,
}


def _output(place: Place, command: str, where: Callable[[Place, str], str]) -> None:
    """Use an output that cannot be written. It must be refused by its path soon, and no file may be lost or left."""
    output = where(place, COMMANDS[command][0])
    texts = arguments(place, command, output)
    place.keep(place.folder)
    before = set(place.folder.rglob("*"))
    result = place.bt(*texts, powerless=output.startswith("ro/"), limit=40)
    name = output.replace("\0", "")[:20].split("/")[0] or output.split("/")[1]
    if output.startswith("link") and either(result):
        right((place.folder / output).exists(), "nothing was written")
        return
    refused(result, ("a", "null") if "\0" in output else name)
    left = set(place.folder.rglob("*")) - before
    right(not left, f"left behind: {sorted(map(str, left))[:3]}")


def _taken(place: Place, command: str) -> None:
    """Use an output that exists. It must not be overwritten."""
    suffix, _ = COMMANDS[command]
    path = place.folder / f"there{suffix}"
    if suffix:
        path.write_text("the user's")
    else:
        path.mkdir()
        (path / "precious").write_text("the user's")
        (path / "good.csv").write_text("the user's")
    texts = arguments(place, command, path.name)
    place.keep(path)
    refused(place.bt(*texts), path.name)


def _input_lost(place: Place, name: str, texts: tuple[str, ...]) -> None:
    """Use an input that does not exist, or is of another kind."""
    os.mkdir(place.folder / "folder")
    (place.folder / "file").write_text("hello")
    refused(place.bt(*(text.replace("RECIPE", str(place.recipe)) for text in texts)), name)


_INPUTS = {
    "check of a folder": ("folder", ("check", "folder")),
    "check of nothing": ("nothing.yaml", ("check", "nothing.yaml")),
    "report of a file": ("file", ("report", "file")),
    "report of an empty folder": ("folder", ("report", "folder")),
    "export of a file": ("file", ("export", "file", "--to", "timm")),
    "export of nothing": ("nothing", ("export", "nothing", "--to", "timm")),
    "import of a folder": ("folder", ("import", "folder", "-o", "o")),
    "import of nothing": ("nothing", ("import", "nothing", "-o", "o")),
    "knn of a file": ("file", ("knn", "file", "data.train=folder", "data.val=folder")),
    "knn of an empty folder": ("folder", ("knn", "folder", "data.train=folder", "data.val=folder")),
    "scan of a text": ("file", ("scan", "file", "-o", "s")),
    "a below-file input": ("file", ("scan", "file/x", "-o", "s")),
    "a recipe below a file": ("file", ("check", "file/x.yaml")),
    "a name of 300 letters": ("nnnnn", ("scan", "n" * 300, "-o", "s")),
    "data below a file": ("file", ("check", "RECIPE", "data.train=file/x")),
    "a resumed path below a file": ("file", ("pretrain", "RECIPE", "run.output_dir=r", "run.resume=file/x")),
    "a subset that is a folder": (
        "folder",
        (
            "finetune",
            "torchvision/resnet18",
            "data.train=DATA/train",
            "data.val=DATA/val",
            "finetune.subset=folder",
            *_VIEW,
        ),
    ),
}


def _full(place: Place, command: str, size_kb: int, again: bool) -> None:
    """Fill the disk. The path must be named, no partial file left, and the same command must work with free space."""
    with small_disk(place, size_kb) as disk:
        stuffing = disk / "stuffing"
        with open(stuffing, "wb") as file:
            file.write(bytes(1024 * (size_kb - {"knn": 0, "scan": 8, "demo-data": 8}.get(command, 40))))
        output = f"disk/x{COMMANDS[command][0]}"
        texts = arguments(place, command, output)
        if command == "scan":
            texts[1] = str(place.shared / "demo/train")
        result = place.bt(*texts, limit=60)
        refused(result, "disk")
        left = [path for path in disk.rglob("*") if path != stuffing and path.is_file() and path.stat().st_size]
        if command != "pretrain":
            right(not left, f"left behind: {[path.name for path in left][:4]}")
        if again:
            stuffing.unlink()
            disk_room = place.folder / "disk"
            accepted(place.bt(*texts, limit=90))
            right(any(path.is_file() for path in disk_room.rglob("*")), "nothing was written")


def _full_export(place: Place, to: str) -> None:
    with small_disk(place, 300):
        output = "disk/out" + {"onnx": ".onnx", "torch-export": ".pt2"}.get(to, ".pth")
        refused(place.bt("export", place.shared / "run", "--to", to, "-o", output, limit=90), "disk")
        left = [path for path in (place.folder / "disk").rglob("*") if path.is_file()]
        right(not left, f"left behind: {left[:3]}")


def _file_limit(place: Place, command: str) -> None:
    """Limit the size of files. This does not need root."""
    limit = 3000 if command in ("scan", "knn") else 20_000

    def little() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    output = f"x{COMMANDS[command][0]}"
    texts = arguments(place, command, output)
    if command == "scan":
        texts[1] = str(place.shared / "demo/val")
    result = place.bt(*texts, preparation=little, limit=90)
    if command == "knn" and result.code == 0:
        sound(result)  # the result of this command is smaller
        return
    refused(result, output)
    if command != "pretrain":
        right(
            not (place.folder / output).exists() or not any((place.folder / output).rglob("*.csv")), "a part was left"
        )


def all_tries() -> list[Try]:
    found = []
    for number, command in enumerate(COMMANDS):
        chosen = [list(_PLACES)[(number * 3 + step) % len(_PLACES)] for step in range(5)]
        common = ["below a device", "in a folder that may not be written"]
        for name in dict.fromkeys([*common, *chosen]):
            action = partial(_output, command=command, where=_PLACES[name])
            found.append(Try("D1", f"{command}: {name}", action, needs_root="written" in name))
    found += tries("D1", {f"{command}: what is there": command for command in COMMANDS if command != "knn"}, _taken)
    found += tries("D1", _INPUTS, _input_lost)
    for command in ("scan", "demo-data", "preview", "embed", "report", "export", "import", "knn", "pretrain"):
        sizes = {"report": 60, "scan": 300, "knn": 12, "preview": 3000}
        case = (command, sizes.get(command, 400), command in ("scan", "preview", "embed"))
        found += tries("D2", {f"{command} on a full disk": case}, _full, needs_root=True)
    found += tries(
        "D2",
        {f"export to {to} on a full disk": to for to in ("torchvision", "onnx", "torch-export")},
        _full_export,
        needs_root=True,
    )
    limited = ("scan", "preview", "embed", "export", "import", "report", "knn", "pretrain")
    found += tries("D2", {f"{command} with a limit of a file's size": command for command in limited}, _file_limit)
    return found
