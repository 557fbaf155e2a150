"""Checkpoints: the whole training state, visible only when complete, and trusted only when undamaged."""

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
    """What a checkpoint must say of its loader; all else is the loader's own."""

    epoch: Count
    step: Count


class CheckpointMetadata(NamedTuple):
    """What a checkpoint says about itself.

    Args:
        step: Steps done.
        loader: State of the training loader, the same on every rank.
        nonfinite_steps: Of them, how many were skipped.
        world_size: Ranks that wrote it.
        run_id: Of the run, by which trackers know it again.
        best: The best value of each metric that was logged, and its step.
    """

    step: Count
    loader: dict[str, Any]
    nonfinite_steps: Count
    world_size: Annotated[int, Field(ge=1)]
    run_id: str
    best: dict[str, tuple[float, Count]]


class NewCheckpoint:
    """A checkpoint that is being written, in RUN/.checkpoint-STEP.partial until it is whole. For rank 0.

    Args:
        run_dir: Of the run.
        step: Of the checkpoint.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self.folder = run_dir / f".checkpoint-{step}.partial"
        self._final = run_dir / f"checkpoint-{step}"

    def begin(self) -> None:
        """Makes the folder, and removes what a killed process left of others."""
        for abandoned in self.folder.parent.glob(".checkpoint-*.partial"):
            shutil.rmtree(abandoned)
        self.folder.mkdir()

    def complete(self, metadata: CheckpointMetadata) -> None:
        """Seals what is in the folder with a manifest, and gives it its name.

        Raises:
            CheckpointError: If a part that some rank wrote is not there.
        """
        CheckpointReader(self.folder).read_metadata()  # finds parts that another rank wrote elsewhere
        files = {path.name: (path.stat().st_size, _digest(path)) for path in sorted(self.folder.iterdir())}
        write_atomically(self.folder / _MANIFEST, _Manifest(progress=metadata, files=files).model_dump_json(indent=1))
        for path in (*self.folder.iterdir(), self.folder):
            sync(path)
        if self._final.exists():
            # Damaged or incomplete: from a whole one the run would have continued.
            os.replace(self._final, self._final.with_name(f".damaged-{self._final.name}.partial"))
        os.replace(self.folder, self._final)
        sync(self._final.parent)

    def abandon(self) -> None:
        """Removes what was written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def prune(run_dir: Path, keep: int) -> None:
    """Removes all checkpoints but the newest."""
    for old in (*checkpoints(run_dir)[:-keep], *run_dir.glob(".damaged-checkpoint-*.partial")):
        shutil.rmtree(old)


def read_metadata(checkpoint: Path) -> CheckpointMetadata:
    """Read what a complete checkpoint says about itself.

    Raises:
        CheckpointError: If its manifest is damaged.
    """
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


def check_undamaged(checkpoint: Path) -> None:
    """Refuse a checkpoint that is not as it was written, before anything of it is used.

    Raises:
        CheckpointError: If it is damaged.
    """
    if damage := damage_of(checkpoint):
        raise CheckpointError(f"{checkpoint} is damaged, {damage}; take another checkpoint")


def damage_of(checkpoint: Path) -> str | None:
    """Return what of a complete checkpoint is not as it was written; None for nothing."""
    try:
        for name, (size, digest) in _read_manifest(checkpoint).files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is gone"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} of {size} bytes"
            if _digest(path) != digest:
                return f"{name} has other bytes than were written"
        # What the manifest does not name, nothing protects.
        parts = CheckpointReader(checkpoint).read_metadata().storage_data.values()
        unnamed = {".metadata", *(str(part.relative_path) for part in parts)} - set(_read_manifest(checkpoint).files)
        if unnamed:
            return f"{_MANIFEST} does not name {min(unnamed)}"
    except (OSError, CheckpointError) as error:
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
    progress: CheckpointMetadata
    files: dict[str, tuple[int, str]]
    """Bytes and hash of each."""


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
        raise CheckpointError(f"{path} is of step {manifest.progress.step}, and the folder's name is of another")
    if strange := [name for name in manifest.files if Path(name).name != name]:
        raise CheckpointError(f"{path} names {strange[0]!r}, which is no file of this checkpoint")
    return manifest


def _manifest_key(loc: tuple[int | str, ...]) -> list[str]:
    """The place of an error, with the names of CheckpointMetadata, which is stored as a list."""
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
        logger.warning("%s is damaged, %s; it is passed over", checkpoint, damage)
    if found:
        raise RecipeError(
            f"run.resume: every checkpoint of {found[0].parent} is damaged ({told[0]}); restore one, or name another"
            " run.output_dir"
        )
    return None


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open_regular(path) as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match, "only checkpoints are asked for their step"
    return int(match[1])
