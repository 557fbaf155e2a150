"""Checkpoints: the whole training state, visible only when complete."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from bt_plugin.errors import RecipeError
from bt_plugin.rundir import write_atomically

_NAME = re.compile(r"checkpoint-(\d+)")
_PROGRESS = "progress.json"


def save_checkpoint(accelerator: Accelerator, run_dir: Path, step: int, loader: dict[str, Any], keep: int) -> None:
    """Writes RUN/checkpoint-STEP, then removes all but the newest `keep`. To be called on every rank.

    Args:
        accelerator: Holds model, optimizer and scaler.
        run_dir: Of the run.
        step: Steps done.
        loader: State of the training loader, the same on every rank.
        keep: Checkpoints to keep, at least 1.
    """
    final = run_dir / f"checkpoint-{step}"
    partial = run_dir / f".checkpoint-{step}.partial"
    if accelerator.is_main_process:
        for abandoned in run_dir.glob(".checkpoint-*.partial"):
            shutil.rmtree(abandoned)
        partial.mkdir()
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_atomically(partial / _PROGRESS, json.dumps({"step": step, "loader": loader}))
        for file in partial.iterdir():
            _sync(file)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        _sync(run_dir)
        for old in checkpoints(run_dir)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> dict[str, Any]:
    """Restores what save_checkpoint wrote and returns {"step", "loader"}."""
    accelerator.load_state(str(checkpoint))
    progress: dict[str, Any] = json.loads((checkpoint / _PROGRESS).read_text(encoding="utf-8"))
    return progress


def checkpoints(run_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = (path for path in run_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name))
    return sorted((path for path in found if (path / _PROGRESS).is_file()), key=_step_of)


def resume_from(run_dir: Path, resume: str) -> Path | None:
    """The checkpoint that `run.resume` means, None to start from the beginning.

    Raises:
        RecipeError: If a path is given that is no checkpoint of this run.
    """
    if resume == "never":
        return None
    found = checkpoints(run_dir)
    if resume == "latest":
        return found[-1] if found else None
    if Path(resume).resolve() not in [path.resolve() for path in found]:
        there = ", ".join(path.name for path in found) or "none yet"
        raise RecipeError(f"run.resume: {resume} is not a complete checkpoint of {run_dir}; there are: {there}")
    return Path(resume)


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match, "only checkpoints are asked for their step"
    return int(match[1])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
