"""Try other files of a run that are damaged, or that another program wrote (D3)."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_cases import Place, Try, tries
from hostile_cases_checkpoints import NEWEST, same_weights
from hostile_cases_lines import Change, append, cut, edited, fifo, folder, whole, with_key
from hostile_cases_verdicts import accepted, either, helpful, right


def _npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _picture(name: str, content: bytes | None) -> Change:
    def change(run: Path) -> None:
        path = run / "pictures" / name
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)

    return change


def _file(name: str, change: Change) -> Change:
    return lambda run: change(run / name)


def _result(content: bytes, name: str = "knn-20260101-000000.json") -> Change:
    def change(run: Path) -> None:
        (run / "eval").mkdir(exist_ok=True)
        (run / "eval" / name).write_bytes(content)

    return change


_NAN = float("nan")
_SHOWN: dict[str, Change] = {
    "pictures/step-abc.npz": _picture("step-abc.npz", _npz(a=np.zeros(3))),
    "pictures/step-.npz": _picture("step-.npz", b""),
    "pictures/step--5.npz": _picture("step--5.npz", b""),
    "pictures/step-1e3.npz": _picture("step-1e3.npz", b""),
    "pictures/step-5000 digits.npz": _picture("step-" + "9" * 240 + ".npz", b""),
    "an empty picture": _picture("step-12.npz", b""),
    "a picture of no arrays": _picture("step-12.npz", _npz()),
    "a picture of other arrays": _picture("step-12.npz", _npz(c_whole=np.zeros((2, 2)))),
    "a picture of other shapes": _picture(
        "step-12.npz",
        _npz(
            **{
                name: np.zeros(0)
                for name in ("c_whole", "c_first", "diagonal_counts", "off_diagonal_counts", "spectrum")
            }
        ),
    ),
    "a picture of NaN": _picture(
        "step-12.npz",
        _npz(
            c_whole=np.full((4, 4), _NAN),
            c_first=np.full((4, 4), _NAN),
            diagonal_counts=np.zeros(80),
            off_diagonal_counts=np.zeros(80),
            spectrum=np.full(4, _NAN),
        ),
    ),
    "a picture of text": _picture(
        "step-12.npz", _npz(c_whole=np.array("x"), c_first=1, diagonal_counts=2, off_diagonal_counts=3, spectrum=4)
    ),
    "a picture that is a folder": _picture("step-16.npz", None),
    "a picture that is cut": _file("pictures/step-12.npz", cut(0.5)),
    "views.png that is text": _file("pictures/views.png", whole(b"hello")),
    "views.png that is cut": _file("pictures/views.png", cut(0.5)),
    "views.png that is a folder": _file("pictures/views.png", folder),
    "views.png that is a FIFO": _file("pictures/views.png", fifo),
    "a summary that is a list": _file("summary.json", whole(b"[1]")),
    "a summary that is cut": _file("summary.json", cut(0.5)),
    "a summary of noise": _file("summary.json", whole(b"\xff\xfe\0x")),
    "a summary that is deep": _file("summary.json", whole(b"[" * 100_000)),
    "a summary that is a folder": _file("summary.json", folder),
    "a summary that is a FIFO": _file("summary.json", fifo),
    "best that is a list": _file("summary.json", with_key("best", [1, 2])),
    "best of text": _file("summary.json", with_key("best", {"loss": "low", "knn_top1": {"value": "x", "step": None}})),
    "kNN of text": _file("summary.json", with_key("knn_top1", "80 %")),
    "kNN of null": _file("summary.json", with_key("knn_top1", {"raw": None, "pretrained": []})),
    "kNN without names": _file("summary.json", with_key("knn_top1", {})),
    "versions that are a list": _file("summary.json", with_key("versions", ["torch"])),
    "steps of text": _file("summary.json", with_key("step", "twelve")),
    "epochs of NaN": _file("summary.json", with_key("epochs", _NAN)),
    "a model.json that is cut": _file("export/model.json", cut(0.5)),
    "a model.json of other versions": _file("export/model.json", with_key("versions", [1, {"a": 2}])),
    "an evaluation that is a list": _result(b"[1, 2]"),
    "an evaluation that is empty": _result(b""),
    "an evaluation of noise": _result(b"\xff\0\xfe"),
    "an evaluation of other types": _result(
        b'{"method": 3, "top1": "x", "top5": null, "data": [], "protocol": 7, "date": {}}'
    ),
    "an evaluation without anything": _result(b"{}"),
    "an evaluation of markup": _result(
        b'{"method": "<script>alert(1)</script>", "top1": 0.5, "subject": "<img src=x onerror=alert(1)>"}'
    ),
    "an evaluation that is a folder": lambda run: (run / "eval/x.json").mkdir(parents=True),
    "an evaluation that is a FIFO": lambda run: ((run / "eval").mkdir(), os.mkfifo(run / "eval/x.json")),
    "an evaluation that is a link to nowhere": lambda run: (
        (run / "eval").mkdir(),
        os.symlink("nowhere", run / "eval/x.json"),
    ),
    "checkpoint-abc": lambda run: (run / "checkpoint-abc").mkdir(),
    "checkpoint-99 that is a file": lambda run: (run / "checkpoint-99").write_text("x"),
    "a tensorboard that is a file": lambda run: (
        shutil.rmtree(run / "tensorboard"),
        (run / "tensorboard").write_text(""),
    ),
}


def _shown(place: Place, change: Change) -> None:
    """Damage a file that is only shown. It must be left out of the page, and nothing may stop."""
    run = place.run_copy()
    change(run)
    accepted(place.bt("report", run, "--map-images", "0", limit=40))
    page = (run / "report.html").read_text(encoding="utf-8", errors="replace")
    right("</html>" in page and "<script>alert" not in page and "<img src=x onerror" not in page, "the page is wrong")


_EXPORTED: dict[str, Change] = {
    "model.json that is cut": _file("export/model.json", cut(0.5)),
    "model.json that is empty": _file("export/model.json", whole(b"")),
    "model.json that is a list": _file("export/model.json", whole(b"[]")),
    "model.json of noise": _file("export/model.json", whole(b"\xff\0")),
    "model.json that is deep": _file("export/model.json", whole(b"[" * 100_000)),
    "model.json that is a FIFO": _file("export/model.json", fifo),
    "model.json without model": _file(
        "export/model.json", edited(lambda c: {k: v for k, v in c.items() if k != "model"})
    ),
    "a model that is a list": _file("export/model.json", with_key("model", [1])),
    "a stem that is unknown": _file("export/model.json", edited(lambda c: {**c, "model": {**c["model"], "stem": "x"}})),
    "channels of text": _file(
        "export/model.json", edited(lambda c: {**c, "model": {**c["model"], "in_chans": "three"}})
    ),
    "channels of 10^9": _file("export/model.json", edited(lambda c: {**c, "model": {**c["model"], "in_chans": 10**9}})),
    "channels of -3": _file("export/model.json", edited(lambda c: {**c, "model": {**c["model"], "in_chans": -3}})),
    "a projector of text": _file(
        "export/model.json", edited(lambda c: {**c, "model": {**c["model"], "projector": "x"}})
    ),
    "a view of text": _file("export/model.json", with_key("eval_view", "32")),
    "a view of 10^6": _file(
        "export/model.json",
        edited(lambda c: {**c, "eval_view": {**c["eval_view"], "size_px": 10**6, "resize_px": 10**6}}),
    ),
    "a view of NaN": _file(
        "export/model.json", edited(lambda c: {**c, "eval_view": {**c["eval_view"], "mean": [_NAN] * 3}})
    ),
    "a deviation of zero": _file(
        "export/model.json", edited(lambda c: {**c, "eval_view": {**c["eval_view"], "std": [0, 0, 0]}})
    ),
    "a view of other keys": _file("export/model.json", with_key("eval_view", {"size": 3})),
    "weights that are cut": _file("export/backbone.safetensors", cut(0.7)),
    "weights that are empty": _file("export/backbone.safetensors", whole(b"")),
    "weights that are gone": lambda run: (run / "export/backbone.safetensors").unlink(),
    "weights that are a folder": _file("export/backbone.safetensors", folder),
    "weights that are a FIFO": _file("export/backbone.safetensors", fifo),
    "weights of another network": lambda run: shutil.copy(
        run / "export/projector.safetensors", run / "export/backbone.safetensors"
    ),
}


def _exported(place: Place, change: Change, command: str) -> None:
    """Damage a file that is used for computing. It must be refused by its name."""
    run = place.run_copy()
    change(run)
    name = ("model.json", "backbone.safetensors", "eval_view", "view.")
    if command == "export":
        result = place.bt("export", run, "--to", "safetensors", "-o", "o.safetensors", limit=40)
        if either(result, name):
            right((place.folder / "o.safetensors").stat().st_size > 1_000_000, "other weights were written")
    else:
        result = place.bt("knn", run, limit=40)
        if either(result, name):
            right("nan" not in result.out.lower(), result.out)
            helpful(False, "exit 0, though wrong") if "view" not in str(change) and _is_vital(run) else None


def _is_vital(run: Path) -> bool:
    """Return whether something that the features depend on has changed."""
    return (run / "export/backbone.safetensors").stat().st_size < 1_000_000


def _manifest(change: Callable[[Any], Any]) -> Change:
    return _file(f"{NEWEST}/manifest.json", edited(change))


def _progress(at: int, value: Any) -> Change:
    """Return the manifest's step, loader, skipped steps, ranks, run and best values, in this order."""
    return _manifest(lambda c: {**c, "progress": [*c["progress"][:at], value, *c["progress"][at + 1 :]]})


_RESUMED: dict[str, tuple[Change, bool]] = {
    "a manifest with step -5": (_progress(0, -5), False),
    "a manifest with step 10^15": (_progress(0, 10**15), False),
    "a manifest with a step of text": (_progress(0, "x"), False),
    "a manifest with step 9": (_progress(0, 9), False),
    "a manifest with a world of 0": (_progress(3, 0), False),
    "a manifest with an epoch of -1": (_progress(1, {"epoch": -1, "step": 0}), False),
    "a manifest with no loader": (_progress(1, {}), False),
    "a manifest of an odd best": (_progress(5, {"loss": [_NAN, "x"]}), False),
    "a manifest that is empty": (_file(f"{NEWEST}/manifest.json", whole(b"")), True),
    "a manifest that is deep": (_file(f"{NEWEST}/manifest.json", whole(b"[" * 100_000)), True),
    "a manifest that is a FIFO": (_file(f"{NEWEST}/manifest.json", fifo), True),
    "a manifest that names files outside": (
        _manifest(lambda c: {**c, "files": {**c["files"], "../../../../etc/passwd": [1, "x"]}}),
        False,
    ),
    "a manifest of NUL in a name": (_manifest(lambda c: {**c, "files": {"a\0b": [1, "x"]}}), True),
    "a part that is a FIFO": (_file(f"{NEWEST}/__0_0.distcp", fifo), True),
    "a recipe that is empty": (_file("recipe.yaml", whole(b"")), False),
    "a recipe that is cut": (_file("recipe.yaml", cut(0.5)), False),
    "a recipe that is a bomb": (_file("recipe.yaml", append(b"x: " + b"[" * 50_000)), False),
    "a recipe of a later version": (_file("recipe.yaml", append(b"new: {key: 1}\n")), False),
    "a recipe that is a folder": (_file("recipe.yaml", folder), False),
    "a lock that is a folder": (_file(".lock", folder), False),
    "a lock of noise": (_file(".lock", whole(b"\xff\xfe\0\x1b[2J")), True),
    "metrics that are a folder": (_file("metrics.jsonl", folder), False),
    "evaluations that are a folder": (_file("evaluations.jsonl", folder), False),
    "pictures that are a file": (
        lambda run: (shutil.rmtree(run / "pictures"), (run / "pictures").write_text("")),
        False,
    ),
    "an odd picture": (_picture("step-xyz.npz", b""), True),
    "a picture that is a folder in the way": (_picture("step-99.npz", None), True),
    "checkpoint-٣": (lambda run: shutil.copytree(run / NEWEST, run / "checkpoint-٣"), True),
    "checkpoint-99999999999999999999": (
        lambda run: shutil.copytree(run / NEWEST, run / "checkpoint-99999999999999999999"),
        True,
    ),
    "checkpoint-12 that is a link": (
        lambda run: ((run / NEWEST).rename(run.parent / "away"), os.symlink(run.parent / "away", run / NEWEST)),
        True,
    ),
    "a tensorboard that is a file": (
        lambda run: (shutil.rmtree(run / "tensorboard"), (run / "tensorboard").write_text("")),
        False,
    ),
}


def _resumed(place: Place, change: Change, must_run: bool) -> None:
    """Damage a file of a run, and resume. A needed file is refused or passed over; a shown one stops nothing."""
    run = place.run_copy(finished=False)
    change(run)
    result = place.bt("pretrain", place.recipe, f"run.output_dir={run}", limit=60)
    if either(
        result,
        (
            "checkpoint-",
            "recipe",
            "lock",
            "metrics",
            "evaluations",
            "pictures",
            "tensorboard",
            "manifest",
            "run.output_dir",
        ),
    ):
        same_weights(place, run)
    else:
        helpful(not must_run, f"refused, though it can run: {result.message[:200]}")


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    found = tries("D3", {f"{name}, report": case for name, case in _SHOWN.items()}, _shown)
    found += tries(
        "D3", {f"{name}, export": (case, "export") for name, case in list(_EXPORTED.items())[::2]}, _exported
    )
    found += tries("D3", {f"{name}, knn": (case, "knn") for name, case in _EXPORTED.items()}, _exported)
    return found + tries("D3", {f"{name}, pretrain": case for name, case in _RESUMED.items()}, _resumed)
