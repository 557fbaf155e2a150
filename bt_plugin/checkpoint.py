"""Checkpoints: the whole training state, visible only when complete, and trusted only when undamaged."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from pydantic import BaseModel

from bt_plugin import distributed
from bt_plugin.errors import CheckpointError, RecipeError
from bt_plugin.rundir import write_atomically

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")
_MANIFEST = "manifest.json"


class Progress(NamedTuple):
    """What a checkpoint says about itself.

    Args:
        step: Steps done.
        loader: State of the training loader, the same on every rank.
        nonfinite_steps: Of them, how many were skipped.
        world_size: Ranks that wrote it.
    """

    step: int
    loader: dict[str, Any]
    nonfinite_steps: int
    world_size: int


def save_checkpoint(accelerator: Accelerator, run_dir: Path, progress: Progress, keep: int) -> None:
    """Writes RUN/checkpoint-STEP, then removes all but the newest `keep`. To be called on every rank.

    Args:
        accelerator: Holds model, optimizer and scaler.
        run_dir: Of the run.
        progress: Of the run, the same on every rank.
        keep: Checkpoints to keep, at least 1.

    Raises:
        CheckpointError: On every rank, if any could not write; what was there before is there still.
    """
    partial = run_dir / f".checkpoint-{progress.step}.partial"
    failures = [distributed.from_main(lambda: _failure_of(lambda: _begin(run_dir, partial)))]
    if not any(failures):
        failures = distributed.all_gather_objects(_failure_of(lambda: accelerator.save_state(str(partial))))
    if not any(failures):
        failures = [distributed.from_main(lambda: _failure_of(lambda: _complete(partial, progress)))]
    for failure in filter(None, failures):
        newest = distributed.from_main(lambda: _abandon(partial))
        raise CheckpointError(
            f"{run_dir}/checkpoint-{progress.step} cannot be written: {failure}. "
            + (f"{newest.name} stands; make room" if newest else "There is none before it; make room")
            + ", and start the same line again"
        )
    distributed.from_main(lambda: _prune(run_dir, keep))


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> Progress:
    """Restores what save_checkpoint wrote; on another number of ranks, all but the random states."""
    progress = read_progress(checkpoint)
    accelerator.load_state(str(checkpoint))
    # Accelerate goes on without random states that it cannot load.
    if progress.world_size == distributed.world_size():
        file = checkpoint / f"random_states_{accelerator.process_index}.pkl"
        states = torch.load(file, weights_only=False)
        if not torch.equal(states["torch_manual_seed"], torch.get_rng_state()):
            raise CheckpointError(f"{file}: the random states cannot be restored; continue on the machines it is of")
    return progress


def read_progress(checkpoint: Path) -> Progress:
    """Of a complete checkpoint."""
    return _read_manifest(checkpoint).progress


def checkpoints(run_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first, whether or not they are damaged."""
    found = (path for path in run_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name))
    return sorted((path for path in found if (path / _MANIFEST).is_file()), key=_step_of)


def resume_from(run_dir: Path, resume: str) -> Path | None:
    """The checkpoint that `run.resume` means, None to start from the beginning.

    A damaged one is passed over, with a warning, for the one before.

    Raises:
        RecipeError: If a path is given that is no whole checkpoint of this run, or all are damaged.
    """
    if resume == "never":
        return None
    found = checkpoints(run_dir)
    if resume == "latest":
        return _newest_whole(found)
    if Path(resume).resolve() not in [path.resolve() for path in found]:
        there = ", ".join(path.name for path in found) or "none yet"
        raise RecipeError(f"run.resume: {resume} is not a complete checkpoint of {run_dir}; there are: {there}")
    if damage := damage_of(Path(resume)):
        raise RecipeError(f"run.resume: {resume} is damaged, {damage}; take another")
    return Path(resume)


def damage_of(checkpoint: Path) -> str | None:
    """What of a complete checkpoint is not as it was written."""
    try:
        for name, (size, digest) in _read_manifest(checkpoint).files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is gone"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} of {size} bytes"
            if _digest(path) != digest:
                return f"{name} has other bytes than were written"
    except (OSError, ValueError) as error:
        return f"{_MANIFEST} or what it names cannot be read: {error}"
    return None


def set_aside_after(run_dir: Path, checkpoint: Path) -> list[Path]:
    """Renames the checkpoints that are newer than the one that the run continues from.

    They are of a future that will not be: left in place, the next start would continue from them.
    """
    newer = [path for path in checkpoints(run_dir) if _step_of(path) > _step_of(checkpoint)]
    for path in newer:
        aside = path.with_name(f"superseded-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
    return newer


class _Manifest(BaseModel):
    progress: Progress
    files: dict[str, tuple[int, str]]
    """Bytes and hash of each."""


def _read_manifest(checkpoint: Path) -> _Manifest:
    return _Manifest.model_validate_json((checkpoint / _MANIFEST).read_bytes())


def _failure_of(action: Callable[[], object]) -> str | None:
    # Python, torch and safetensors each have an error of their own for a full disk.
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _begin(run_dir: Path, partial: Path) -> None:
    for abandoned in run_dir.glob(".checkpoint-*.partial"):
        shutil.rmtree(abandoned)
    partial.mkdir()


def _complete(partial: Path, progress: Progress) -> None:
    final = partial.with_name(f"checkpoint-{progress.step}")
    files = {path.name: (path.stat().st_size, _digest(path)) for path in sorted(partial.iterdir())}
    write_atomically(partial / _MANIFEST, _Manifest(progress=progress, files=files).model_dump_json(indent=1))
    for path in (*partial.iterdir(), partial):
        _sync(path)
    if final.exists():
        # Damaged or incomplete: from a whole one the run would have continued.
        os.replace(final, partial.with_name(f".damaged-{final.name}.partial"))
    os.replace(partial, final)
    _sync(partial.parent)


def _abandon(partial: Path) -> Path | None:
    """Removes what was written, and returns the newest checkpoint there is."""
    shutil.rmtree(partial, ignore_errors=True)
    return next(reversed(checkpoints(partial.parent)), None)


def _prune(run_dir: Path, keep: int) -> None:
    for old in (*checkpoints(run_dir)[:-keep], *run_dir.glob(".damaged-checkpoint-*.partial")):
        shutil.rmtree(old)


def _newest_whole(found: list[Path]) -> Path | None:
    for checkpoint in reversed(found):
        damage = damage_of(checkpoint)
        if damage is None:
            return checkpoint
        logger.warning("%s is damaged, %s; it is passed over", checkpoint, damage)
    if found:
        raise RecipeError(
            f"run.resume: every checkpoint of {found[0].parent} is damaged; restore one, or name another run.output_dir"
        )
    return None


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


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
