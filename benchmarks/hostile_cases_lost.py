"""Try directories that another run uses, and directories that disappear (B4, D12)."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_cases import FailedError, Place, Try, tries
from hostile_cases_process import Process
from hostile_cases_verdicts import helpful, refused, right, sound


def _running(place: Place, *changes: str, name: str = "run") -> Process:
    """Start a run of many steps, and wait for its first steps."""
    texts = ("optim.epochs=400", "run.checkpoint_every_steps=2", "eval.every_epochs=null", f"run.output_dir={name}")
    process = place.start("pretrain", place.recipe, *texts, *changes)
    metrics = place.folder / name / "metrics.jsonl"
    process.until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 3, 60)
    return process


def _taken_meanwhile(place: Place, plant: Callable[[Place, Path], None]) -> None:
    """Let another process take the directory while the images are listed. The directory must stay theirs."""
    rows = "\n".join(f"{place.data}/train/coffee/000.jpg" for _ in range(600_000)) + "\n"
    (place.folder / "long.txt").write_text(rows)
    process = place.start(
        "pretrain",
        place.recipe,
        "data.train=long.txt",
        "data.val=null",
        "optim.lr_weights=0.3",
        "run.output_dir=run",
        "run.max_steps=4",
    )
    process.until(lambda: process.has_open("long.txt"), 30)
    plant(place, place.folder / "run")
    place.keep(place.folder / "run")
    refused(process.wait(60), "run.output_dir")


def _other_run(place: Place, folder: Path) -> None:
    shutil.copytree(place.shared / "run", folder)


def _other_recipe(place: Place, folder: Path) -> None:
    folder.mkdir()
    shutil.copy(place.shared / "run/recipe.yaml", folder / "recipe.yaml")


def _foreign(place: Place, folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("the user's")


def _a_file(place: Place, folder: Path) -> None:
    folder.write_text("the user's")


_PLANTED = {"another run": _other_run, "another recipe": _other_recipe, "files": _foreign, "a file": _a_file}


def _two_at_once(place: Place) -> None:
    """Start two runs at the same time in one directory. One of them must be refused."""
    both = [
        place.start("pretrain", place.recipe, "run.output_dir=run", f"run.seed={seed}", "optim.epochs=2")
        for seed in (1, 2)
    ]
    results = [process.wait(90) for process in both]
    codes = sorted(result.code for result in results)
    right(codes == [0, 2], f"exit codes {codes}")
    refused(max(results, key=lambda result: result.code), "run.output_dir")
    winner = 1 + [result.code for result in results].index(0)
    right(f"seed: {winner}" in (place.folder / "run/recipe.yaml").read_text(), "the recipe is that of the refused run")


def _lost(place: Place, change: Callable[[Path], Any], warns: bool) -> None:
    """Remove a file of a running run. If it is only shown, expect a warning; otherwise exit 2 and the file's name."""
    process = _running(place)
    run = place.folder / "run"
    change(run)
    if warns:
        metrics = run / "metrics.jsonl"
        seen = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        process.until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > seen + 6, 8)
        process.send(signal.SIGTERM)
        result = process.wait(40)
        sound(result, 20000)
        helpful(result.code in (75, 2), f"exit {result.code} {result.tail}")
    else:
        result = process.wait(40)
        sound(result, 20000)
        right(result.code != 0, "exit 0")
        if result.code != 2:
            raise FailedError("traceback", f"exit {result.code} {result.tail}")
        helpful("run" in result.message, result.message)


def _replace_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


_LOST: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "the run is removed": (lambda run: shutil.rmtree(run, ignore_errors=True), False),
    "the run is renamed": (lambda run: run.rename(run.with_name("elsewhere")), False),
    "the run becomes a file": (_replace_by_file, False),
    "the tensorboard is removed": (lambda run: shutil.rmtree(run / "tensorboard"), True),
    "the metrics are removed": (lambda run: (run / "metrics.jsonl").unlink(), True),
    "the lock is removed": (lambda run: (run / ".lock").unlink(), True),
    "the recipe is removed": (lambda run: (run / "recipe.yaml").unlink(), True),
    "the checkpoints are removed": (
        lambda run: [shutil.rmtree(path, ignore_errors=True) for path in run.glob("checkpoint-*")],
        True,
    ),
}


def _images_lost(place: Place) -> None:
    """Remove all images of a running run. The run must end and name one of them."""
    folder = place.classes(count=6)
    process = _running(place, f"data.train={folder}", "data.val=null", "data.max_bad_files=3")
    shutil.rmtree(folder)
    result = process.wait(40)
    refused(sound(result, 20000), ".jpg")


def _there_lost(place: Place) -> None:
    """Remove the current directory before a command starts."""
    here = place.folder / "here"
    here.mkdir()
    refused(place.bt("scan", "images", "-o", "s", cwd=here, preparation=lambda: here.rmdir()))


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    found = tries("B4", {f"taken meanwhile by {name}": plant for name, plant in _PLANTED.items()}, _taken_meanwhile)
    found += [Try("B4", "two at once", _two_at_once)]
    found += tries("D12", _LOST, _lost)
    return [
        *found,
        Try("D12", "the images are removed", _images_lost),
        Try("D12", "the current directory is removed", _there_lost),
    ]
