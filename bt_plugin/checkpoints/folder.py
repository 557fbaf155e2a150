"""Checkpoints on disk: the whole training state. They appear only when complete, and are used only if undamaged."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from bt_plugin.checkpoints.reader import CheckpointReader
from bt_plugin.errors import CheckpointError, RecipeError
from bt_plugin.runs.atomic_file import sync, write_atomically
from dali_pipelines.regular_files import open_regular, read_regular

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-([0-9]{1,15})")
_MANIFEST = "manifest.json"
_MOST_MANIFEST_BYTES = 2**26

Count = Annotated[int, Field(ge=0)]


class _LoaderState(BaseModel, extra="allow"):
    """The keys that every loader state has. The loader defines all other keys."""

    epoch: Count
    step: Count


class CheckpointMetadata(NamedTuple):
    """The description that a checkpoint stores of itself.

    Args:
        step: Number of steps done.
        loader: State of the training loader, the same on every rank.
        nonfinite_steps: Number of these steps that were skipped.
        world_size: Number of ranks that wrote the checkpoint.
        run_id: ID of the run, by which trackers find it again.
        best: Best value of each logged metric, and its step.
    """

    step: Count
    loader: dict[str, Any]
    nonfinite_steps: Count
    world_size: Annotated[int, Field(ge=1)]
    run_id: str
    best: dict[str, tuple[float, Count]]


class NewCheckpoint:
    """A checkpoint that is being written, in RUN/.checkpoint-STEP.partial until it is complete. Use it on rank 0.

    Args:
        run_dir: Directory of the run.
        step: Step of the checkpoint.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self.folder = run_dir / f".checkpoint-{step}.partial"
        self._final = run_dir / f"checkpoint-{step}"

    def begin(self) -> None:
        """Make the folder, and remove partial checkpoints that a killed process left."""
        for abandoned in self.folder.parent.glob(".checkpoint-*.partial"):
            shutil.rmtree(abandoned)
        self.folder.mkdir()

    def complete(self, metadata: CheckpointMetadata) -> None:
        """Write the manifest of the folder's files, then give the folder its final name.

        Raises:
            CheckpointError: If a part that a rank wrote is missing.
        """
        CheckpointReader(self.folder).read_metadata()  # raises if another rank wrote its part elsewhere
        files = {path.name: (path.stat().st_size, _digest(path)) for path in sorted(self.folder.iterdir())}
        write_atomically(self.folder / _MANIFEST, _Manifest(progress=metadata, files=files).model_dump_json(indent=1))
        for path in (*self.folder.iterdir(), self.folder):
            sync(path)
        if self._final.exists():
            # This one is damaged or incomplete: the run would have resumed from a whole one.
            os.replace(self._final, self._final.with_name(f".damaged-{self._final.name}.partial"))
        os.replace(self.folder, self._final)
        sync(self._final.parent)

    def abandon(self) -> None:
        """Remove everything that was written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def prune(run_dir: Path, keep: int, *, keep_step: int | None = None) -> None:
    """Remove old checkpoints.

    Args:
        run_dir: Directory of the run.
        keep: Number of newest checkpoints that stay, 1 or more.
        keep_step: Step whose checkpoint stays in addition, and is not one of these.
    """
    found = [path for path in checkpoints(run_dir) if step_of(path) != keep_step]
    for old in (*found[:-keep], *run_dir.glob(".damaged-checkpoint-*.partial")):
        shutil.rmtree(old)


def read_metadata(checkpoint: Path) -> CheckpointMetadata:
    """Read the description that a complete checkpoint stores of itself.

    Raises:
        CheckpointError: If its manifest is damaged.
    """
    return _read_manifest(checkpoint).progress


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the complete checkpoints, oldest first. They may be damaged."""
    found = (path for path in run_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name))
    return sorted((path for path in found if (path / _MANIFEST).is_file()), key=step_of)


def resume_from(run_dir: Path, resume: str, *, until: int | None = None) -> Path | None:
    """Return the checkpoint that `run.resume` selects, None to start from the beginning.

    Skip a damaged checkpoint with a warning, and take the one before.

    Args:
        run_dir: Directory of the run.
        resume: Value of the key.
        until: Last step of which a checkpoint may be. None: any step.

    Raises:
        RecipeError: If `run.resume` is a path that is not such a checkpoint of this run, or if all are damaged.
    """
    if resume == "never":
        return None
    found = [path for path in checkpoints(run_dir) if until is None or step_of(path) <= until]
    if resume == "latest":
        return _newest_whole(found)
    if Path(resume).resolve() not in [path.resolve() for path in found]:
        there = ", ".join(path.name for path in found) or "none exists yet"
        before = "" if until is None else f" up to step {until}"
        raise RecipeError(
            f"run.resume: {resume} is not a complete checkpoint of {run_dir}{before}. Choose one of: {there}"
        )
    if damage := damage_of(Path(resume)):
        raise RecipeError(f"run.resume: {resume} is damaged: {damage}. Choose another checkpoint")
    return Path(resume)


def check_undamaged(checkpoint: Path) -> None:
    """Raise an error if a checkpoint differs from what was written, before any of it is used.

    Raises:
        CheckpointError: If it is damaged.
    """
    if damage := damage_of(checkpoint):
        raise CheckpointError(f"{checkpoint} is damaged: {damage}. Choose another checkpoint")


def damage_of(checkpoint: Path) -> str | None:
    """Return how a complete checkpoint differs from what was written, None if it does not."""
    try:
        for name, (size, digest) in _read_manifest(checkpoint).files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} of {size} bytes"
            if _digest(path) != digest:
                return f"{name} differs from what was written"
        # A file that the manifest does not name has no hash to check.
        parts = CheckpointReader(checkpoint).read_metadata().storage_data.values()
        unnamed = {".metadata", *(str(part.relative_path) for part in parts)} - set(_read_manifest(checkpoint).files)
        if unnamed:
            return f"{_MANIFEST} does not name {min(unnamed)}"
    except (OSError, CheckpointError) as error:
        return f"{_MANIFEST} or a file that it names cannot be read: {error}"
    return None


def set_aside_after(run_dir: Path, checkpoint: Path) -> list[Path]:
    """Rename the checkpoints that are newer than the one that the run resumes from. Return their old paths.

    The run will write these steps again. Without the new names, the next start would resume from the old ones.
    """
    newer = [path for path in checkpoints(run_dir) if step_of(path) > step_of(checkpoint)]
    for path in newer:
        aside = path.with_name(f"superseded-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
    return newer


class _Manifest(BaseModel):
    progress: CheckpointMetadata
    files: dict[str, tuple[int, str]]
    """Size in bytes and hash of each file, by name."""


def _read_manifest(checkpoint: Path) -> _Manifest:
    path = checkpoint / _MANIFEST
    try:
        manifest = _Manifest.model_validate_json(read_regular(path, _MOST_MANIFEST_BYTES))
        _LoaderState.model_validate(manifest.progress.loader)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(_manifest_key(detail["loc"])) or "it"
        raise CheckpointError(f"{path} is damaged: {where}: {detail['msg']}") from error
    named = _NAME.fullmatch(checkpoint.name)
    if named and int(named[1]) != manifest.progress.step:
        raise CheckpointError(f"{path} is of step {manifest.progress.step}, but its folder is named {checkpoint.name}")
    if strange := [name for name in manifest.files if Path(name).name != name]:
        raise CheckpointError(f"{path} names {strange[0]!r}, which is not a file of this checkpoint")
    return manifest


def _manifest_key(loc: tuple[int | str, ...]) -> list[str]:
    """Return the place of an error, with the field names of CheckpointMetadata, which is stored as a list."""
    return [
        CheckpointMetadata._fields[part] if isinstance(part, int) and at == 1 else str(part)
        for at, part in enumerate(loc)
    ]


def _newest_whole(found: list[Path]) -> Path | None:
    told = []
    for checkpoint in reversed(found):
        damage = damage_of(checkpoint)
        if damage is None:
            return checkpoint
        told.append(f"{checkpoint.name}: {damage}")
        logger.warning("%s is damaged: %s. It is skipped", checkpoint, damage)
    if found:
        raise RecipeError(
            f"run.resume: every checkpoint of {found[0].parent} is damaged ({told[0]}). Restore one, or choose"
            " another run.output_dir"
        )
    return None


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open_regular(path) as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def step_of(path: Path) -> int:
    """Return the step of a checkpoint by its name."""
    match = _NAME.fullmatch(path.name)
    assert match, "only checkpoints have a step"
    return int(match[1])
