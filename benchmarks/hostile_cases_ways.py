"""Check that a refusal has a way out, and that an input that can run is not refused (E)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_cases import Place, Try, tries
from hostile_cases_tars import labelled, tar
from hostile_cases_verdicts import accepted, either, helpful, raises, refused, right

_VIEW = ("view.size_px=32", "view.resize_px=32", "run.device=cpu")


def _channels_first(place: Place, shape: tuple[int, ...], suffix: str) -> None:
    """Give pixels with their channels first. The message must name the order, and must not advise 32 channels."""
    pixels = np.zeros(shape, dtype=np.uint8)
    path = place.folder / f"a{suffix}"
    np.save(path, pixels) if suffix == ".npy" else np.savez(path, images=pixels)
    result = refused(place.bt("check", place.recipe, f"data.train={path}", "data.val=null"), path.name)
    helpful("in_chans=" not in result.message, f"wrong advice: {result.message}")
    helpful(any(word in result.message for word in ("transpose", "moveaxis", "permute", "N, H, W")), result.message)


def _list(place: Place, suffix: str, line: str, encoding: str) -> None:
    """Read a list in another form. It must be read as intended, or refused with its name, a line and a hint."""
    folder = place.classes(count=2)
    files = sorted(folder.glob("*/*.jpg"))
    text = "".join(line.format(path=path, label=path.parent.name) + "\n" for path in files)
    path = place.folder / f"list{suffix}"
    path.write_text(text, encoding=encoding)

    def read() -> list[str]:
        from dali_pipelines.sources import open_source

        return list(open_source(path).names)

    result = place.call(read)
    if not raises(result, path.name, ("line", "UTF-8", "utf-8")):
        right([os.path.basename(name) for name in result.value] == [file.name for file in files], result.value[:2])
    if either(place.bt("scan", path, "-o", "s"), path.name):
        right(
            "path,reason" in (place.folder / "s/bad.csv").read_text() or _count(place.folder / "s/bad.csv") == 0,
            "bad files",
        )


def _count(path: Path) -> int:
    return len(path.read_text().splitlines()) - 1


_LISTS: dict[str, tuple[str, str, str]] = {
    "path label": (".txt", "{path} {label}", "utf-8"),
    "path label of numbers": (".txt", "{path} 7", "utf-8"),
    "semicolons": (".csv", "{path};{label}", "utf-8"),
    "semicolons in .txt": (".txt", "{path};{label}", "utf-8"),
    "commas in .txt": (".txt", "{path},{label}", "utf-8"),
    "tabs in .csv": (".csv", "{path}\t{label}", "utf-8"),
    "commas in .tsv": (".tsv", "{path},{label}", "utf-8"),
    "bars": (".csv", "{path}|{label}", "utf-8"),
    "three columns": (".csv", "{path},{label},3", "utf-8"),
    "UTF-16": (".csv", "{path},{label}", "utf-16"),
    "UTF-16 without a mark": (".csv", "{path},{label}", "utf-16-le"),
    "UTF-32": (".txt", "{path}", "utf-32"),
    "a home": (".csv", "{path},{label}", "utf-8"),
    "a label of 200,000 letters": (".csv", "{path}," + "x" * 200_000, "utf-8"),
}


def _home(place: Place, suffix: str) -> None:
    """Use `~/` in a list. It must mean the home directory."""
    home = place.folder.parent / "home"
    shutil.copytree(place.classes(count=2), home / "pictures")
    line = "~/pictures/c0/0.jpg" + {".csv": ",a", ".txt": "", ".tsv": "\ta"}[suffix]
    (place.folder / f"l{suffix}").write_text(line + "\n")
    result = accepted(place.bt("scan", f"l{suffix}", "-o", "s"))
    right("1 good" in result.out, result.out)


def _chdir(place: Place, name: str) -> None:
    """Open a source by a relative path, and change the directory. The source must still be readable."""
    place.classes()
    (place.folder / "l.csv").write_text("images/c0/0.jpg,a\nimages/c1/0.jpg,b\n")
    (place.folder / "s.tar").write_bytes(tar(labelled(place, 4)))
    np.save(place.folder / "a.npy", np.zeros((4, 8, 8, 3), dtype=np.uint8))

    def read() -> int:
        from dali_pipelines.sources import open_source

        source = open_source(name)
        os.chdir("/")
        return sum(source.read(index).size > 0 for index in range(len(source)))

    result = place.call(read)
    helpful(not raises(result), result.value)
    right(result.value >= 2, result.value)


def _changed_data(place: Place, change: Callable[[Path], Any], needles: tuple[str, ...]) -> None:
    """Change a data set between two starts. The message must say in words what changed, not with hashes."""
    folder = place.classes(count=8)
    texts = (f"data.train={folder}", "data.val=null", "run.output_dir=run", "eval.every_epochs=null")
    accepted(place.bt("pretrain", place.recipe, *texts, "run.max_steps=2"))
    change(folder)
    result = refused(place.bt("pretrain", place.recipe, *texts), ("data.train", "images", "source"))
    helpful(all(needle in result.message for needle in needles), f"{needles} not in {result.message}")


_CHANGED: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "an image more": (lambda folder: shutil.copy(folder / "c0/0.jpg", folder / "c0/9.jpg"), ("16", "17")),
    "an image less": (lambda folder: (folder / "c1/3.jpg").unlink(), ("16", "15")),
    "a class more": (lambda folder: shutil.copytree(folder / "c0", folder / "c2"), ("16", "24")),
    "an image of another name": (lambda folder: (folder / "c1/3.jpg").rename(folder / "c1/z.jpg"), ("name",)),
}


# --- weights of other programs --------------------------------------------------------------------------------------


def _resnet() -> Any:
    import torch
    from torchvision.models import resnet18

    torch.manual_seed(0)
    state = resnet18().state_dict()
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def _prefixed(prefix: str, state: Any, scale: float = 1.0) -> Any:
    return {prefix + key: value * scale if value.is_floating_point() else value for key, value in state.items()}


_LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "MoCo": lambda s: {
        "epoch": 1,
        "arch": "resnet18",
        "state_dict": _prefixed("module.encoder_q.", s) | _prefixed("module.encoder_k.", s, 2.0),
    },
    "MoCo v3": lambda s: {
        "state_dict": _prefixed("module.base_encoder.", s) | _prefixed("module.momentum_encoder.", s, 2.0)
    },
    "VISSL": lambda s: {
        "classy_state_dict": {"base_model": {"model": {"trunk": _prefixed("_feature_blocks.", s), "heads": {}}}}
    },
    "DINO's teacher": lambda s: {
        "student": _prefixed("module.backbone.", s, 2.0),
        "teacher": _prefixed("backbone.", s),
        "epoch": 3,
    },
    "LightlyTrain": lambda s: {"state_dict": _prefixed("embedding_model.wrapped_model._model.", s)},
    "LightlyTrain, in a model": lambda s: {
        "state_dict": _prefixed("method.embedding_model.wrapped_model._model.", s),
        "hyper_parameters": {},
    },
    "BYOL": lambda s: {
        "state_dict": _prefixed("online_network.encoder.", s) | _prefixed("target_network.encoder.", s, 2.0)
    },
    "SimSiam": lambda s: {"state_dict": _prefixed("module.encoder.", s), "optimizer": {}},
    "mmselfsup": lambda s: {"meta": {"version": "1"}, "state_dict": _prefixed("backbone.", s)},
    "SwAV": lambda s: _prefixed("module.", s),
    "an EMA": lambda s: {"model_ema": _prefixed("module.", s), "args": None},
    "a feature extractor": lambda s: {"state_dict": _prefixed("feature_extractor.", s)},
    "a wrapper in a wrapper": lambda s: {"model_state_dict": _prefixed("net.student.model.backbone.", s)},
    "weights alone": lambda s: s,
}


def _layout(place: Place, build: Callable[[Any], Any]) -> None:
    """Read weights in known layouts. The network's weights must be used, or the message must offer `--prefix`."""
    import torch
    from safetensors.torch import load_file

    state = _resnet()
    torch.save(build(state), place.folder / "w.pth")
    result = place.bt("import", "w.pth", "-o", "o")
    if either(result, "w.pth", "--prefix"):
        written = load_file(place.folder / "o/backbone.safetensors")
        scales = {
            round(float((written[key] / value).nanmean()))
            for key, value in state.items()
            if key.endswith("conv1.weight")
        }
        right(set(written) == set(state) and scales in ({1}, {2}), f"other weights: {scales}")


# --- data sets that can be trained on -------------------------------------------------------------------------------


def _trainable(place: Place, change: Callable[[Path, Path], Any]) -> None:
    """Use an odd validation set. Pretraining must run, because it needs no classes."""
    train = place.classes("train", ("c0", "c1", "c2"), 4)
    val = place.classes("val", ("c0", "c1", "c2"), 2)
    change(train, val)
    texts = (f"data.train={train}", f"data.val={val}", "run.output_dir=run", "optim.epochs=2", "eval.every_epochs=1")
    accepted(place.bt("check", place.recipe, *texts))
    accepted(place.bt("pretrain", place.recipe, *texts))


def _macos(folder: Path) -> None:
    (folder / "__MACOSX/c0").mkdir(parents=True)
    (folder / "__MACOSX/c0/._0.jpg").write_bytes(b"\0\5\x16\7")


_TRAINABLE: dict[str, Callable[[Path, Path], Any]] = {
    "a class that val lacks": lambda train, val: shutil.rmtree(val / "c2"),
    "a class that train lacks": lambda train, val: shutil.rmtree(train / "c1"),
    "an empty folder in val": lambda train, val: (val / "c3").mkdir(),
    "an empty folder in train": lambda train, val: (train / "c3").mkdir(),
    "__MACOSX in both": lambda train, val: (_macos(train), _macos(val)),
    "a folder of texts": lambda train, val: ((train / "logs").mkdir(), (train / "logs/a.txt").write_text("x")),
    "an image next to the classes of val": lambda train, val: shutil.copy(val / "c0/0.jpg", val / "cover.jpg"),
    "an image next to the classes of train": lambda train, val: shutil.copy(train / "c0/0.jpg", train / "cover.jpg"),
    "hidden folders": lambda train, val: ((train / ".ipynb_checkpoints").mkdir(), (val / ".DS_Store").write_text("x")),
    "@eaDir": lambda train, val: ((train / "@eaDir").mkdir(), (train / "c0/@eaDir").mkdir()),
}


def _lines(place: Place, content: str) -> None:
    """Make an error in YAML. The message must have one or two lines, and its place."""
    (place.folder / "odd.yaml").write_text(content)
    result = refused(place.bt("check", "odd.yaml"), "odd.yaml", "line")
    helpful(
        len(result.message.strip().splitlines()) <= 2, f"{len(result.message.splitlines())} lines: {result.message}"
    )


_YAML = {
    "a tab": "data:\n\ttrain: a\n",
    "a quote": "data: {train: 'a}\n",
    "a bracket": "data: {train: [a}\n",
    "a colon": "data: train: a\n",
    "an indent": "data:\n    train: a\n  val: b\n",
    "an alias": "data: *nope\n",
    "a key twice": "run: {seed: 1,\n seed: 2}\n",
}


def _reasons(place: Place) -> None:
    """Scan bad files. The reasons in bad.csv must not contain memory addresses."""
    folder = place.classes()
    good = (folder / "c0/0.jpg").read_bytes()
    for name, content in (
        ("a.jpg", b"no image"),
        ("b.png", good[:50]),
        ("c.tif", b"II*\0" + bytes(20)),
        ("d.webp", b"RIFF"),
        ("e.bmp", b"BM"),
    ):
        (folder / "c1" / name).write_bytes(content)
    accepted(place.bt("scan", folder, "-o", "s"))
    text = (place.folder / "s/bad.csv").read_text()
    helpful("0x" not in text and "BytesIO" not in text, text)
    right(text.count("\n") == 6, text)


def all_tries() -> list[Try]:
    shapes = {
        "12 x 3 x 32 x 32": (12, 3, 32, 32),
        "12 x 1 x 28 x 28": (12, 1, 28, 28),
        "12 x 4 x 64 x 48": (12, 4, 64, 48),
    }
    found: list[Try] = []
    for suffix in (".npy", ".npz"):
        found += tries(
            "E", {f"channels first in {suffix}, {name}": (s, suffix) for name, s in shapes.items()}, _channels_first
        )
    found += tries("E", {f"a list: {name}": case for name, case in _LISTS.items()}, _list)
    found += tries("E", {f"a home in {suffix}": suffix for suffix in (".csv", ".txt", ".tsv")}, _home)
    found += tries("E", {f"{name} from elsewhere": name for name in ("images", "l.csv", "s.tar", "a.npy")}, _chdir)
    found += tries("E", {f"a data set that changed: {name}": case for name, case in _CHANGED.items()}, _changed_data)
    found += tries("E", {f"weights of {name}": build for name, build in _LAYOUTS.items()}, _layout)
    found += tries("E", {f"a data set with {name}": case for name, case in _TRAINABLE.items()}, _trainable)
    found += tries("E", {f"YAML with {name}": content for name, content in _YAML.items()}, _lines)
    return [*found, Try("E", "reasons of bad files", _reasons)]
