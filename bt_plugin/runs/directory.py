"""The directory of a run: check it, claim it and lock it.

- RUN/recipe.yaml: the resolved recipe
- RUN/metrics.jsonl: metrics, one line every run.log_every_steps
- RUN/evaluations.jsonl: evaluations, one line every eval.every_epochs
- RUN/tensorboard/: the same metrics and evaluations for TensorBoard
- RUN/pictures/: snapshots of each evaluation, and its views
- RUN/checkpoint-STEP/: the training state, from which a run resumes
- RUN/initial.safetensors: the backbone before the first step, if it has weights of model.init
- RUN/nonfinite/step-STEP/: the first non-finite step, with run.capture_nonfinite
- RUN/export/: backbone and projector, for other programs
- RUN/summary.json: the results
- RUN/.lock: the process that writes here
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from datetime import datetime
from pathlib import Path

from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError, file_error
from bt_plugin.runs.atomic_file import check_output, write_atomically
from bt_plugin.runtime import collectives

logger = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations.jsonl"
TENSORBOARD = "tensorboard"
SUMMARY = "summary.json"
INITIAL = "initial.safetensors"
NONFINITE = "nonfinite"
_LOCK = ".lock"

# Keys that a run itself sets in its recipe.yaml.
_WRITTEN_BY_RUN = (("model", "init_sha256"), ("model", "backbone_sha256"), ("data", "value_range_used"))
# Keys that may change when a run resumes, because images, views and loss stay the same.
_FREE_KEYS = {
    "model": {"activation_checkpointing"},
    "optim": {"accumulation_steps"},
    "data": {
        "train", "val", "backend", "augment", "on_device", "num_threads", "prefetch", "hw_decoder_load",
        "max_bad_files", "max_pixels", "cache_dir", "cache_gib",
    },
    "run": {
        "output_dir", "device", "log_every_steps", "checkpoint_every_steps", "keep_checkpoints", "resume", "max_steps",
        "timeout_s", "on_world_change", "max_nonfinite_steps", "capture_nonfinite", "deterministic", "trackers",
        "gradient_as_bucket_view", "static_graph", "memory_format", "compile",
    },
    "eval": set(Recipe.model_fields["eval"].default.__class__.model_fields),
}  # fmt: skip


def check_run_dir(recipe: Recipe) -> None:
    """Check that the directory is new or belongs to this run. Change nothing.

    Raises:
        RecipeError: If the directory contains other files, another run, or a run that must not be resumed.
    """
    folder = Path(recipe.run.output_dir)
    key = f"run.output_dir: {folder}"
    try:
        is_file = folder.exists() and not folder.is_dir()
    except OSError as error:
        raise file_error(error, folder, "run.output_dir") from error
    if is_file:
        raise RecipeError(f"{key} is a file. Choose a directory")
    check_output(folder / RECIPE, "run.output_dir")
    if not folder.exists() or not any(path.name != _LOCK for path in folder.iterdir()):
        return
    if not (folder / RECIPE).is_file():
        raise RecipeError(
            f"{key} contains files that do not belong to a run. Choose a directory that does not exist yet"
        )
    if recipe.run.resume == "never":
        raise RecipeError(f"{key} already contains a run. Choose another directory, or set run.resume to latest")
    changed = _changed_keys(load_recipe(folder / RECIPE), recipe)
    if changed:
        raise RecipeError(
            f"{key} contains a run with another recipe: {'; '.join(changed)}. Choose another directory, or restore"
            " these keys to resume that run"
        )


def claim_run_dir(recipe: Recipe) -> RunLock:
    """Make the directory, lock it, and write the resolved recipe into it unless a run resumes.

    Raises:
        RecipeError: If another process writes there, or another run took the directory after it was checked.
        FileError: If the directory cannot be written.
    """
    folder = Path(recipe.run.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(error, folder, "run.output_dir") from error
    lock = RunLock(folder)
    try:
        check_run_dir(recipe)
        if not (folder / RECIPE).exists():
            write_atomically(folder / RECIPE, recipe.to_yaml())
    except BaseException:
        lock.release()
        raise
    return lock


def with_recorded_range(recipe: Recipe) -> Recipe:
    """Return the recipe with the value range that the run has recorded, if it resumes and has recorded one."""
    path = Path(recipe.run.output_dir) / RECIPE
    if recipe.data.value_range_used is not None or not path.exists():
        return recipe
    used = load_recipe(path).data.value_range_used
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"value_range_used": used})})


def recorded_epochs(run_dir: Path, *, default: int) -> int:
    """Return optim.epochs of the run's recipe.yaml, or the default if there is none yet."""
    return load_recipe(run_dir / RECIPE).optim.epochs if (run_dir / RECIPE).exists() else default


def record_epochs(run_dir: Path, epochs: int) -> None:
    """Change optim.epochs in the run's recipe.yaml."""
    recipe = load_recipe(run_dir / RECIPE)
    optim = recipe.optim.model_copy(update={"epochs": epochs})
    write_atomically(run_dir / RECIPE, recipe.model_copy(update={"optim": optim}).to_yaml())


def check_shared(recipe: Recipe, within_s: float = 60.0) -> None:
    """Check that all ranks see the run's directory, because each writes its part of a checkpoint there.

    Call this on every rank.

    Args:
        recipe: Recipe of a run whose directory rank 0 has claimed.
        within_s: Longest time in seconds that a network file system takes to show files of another machine.

    Raises:
        RecipeError: If a rank does not see the directory, because it is on a disk of rank 0's machine.
    """
    deadline_s = time.monotonic() + within_s
    folder = Path(recipe.run.output_dir)
    # Network file systems may cache the lookup of one name, but not a listing.
    while not (seen := folder.is_dir() and RECIPE in os.listdir(folder)) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    blind = [rank for rank, sees in enumerate(collectives.all_gather_objects(seen)) if not sees]
    if blind:
        raise RecipeError(
            f"run.output_dir: rank {', '.join(map(str, blind))} does not see what rank 0 wrote to {folder}. Choose a"
            " directory on a file system that all machines share"
        )


class RunLock:
    """A lock on a run's directory, so that only one process writes there.

    The operating system holds the lock on an open file. It ends with the process, even after a crash. On a file system
    without locks there is no lock, and a warning is logged.

    Args:
        folder: Directory of the run.
        key: Recipe key or option that names the directory, for messages.

    Raises:
        RecipeError: If another process has the lock. The message gives its PID, host and start time.
    """

    def __init__(self, folder: Path, key: str = "run.output_dir") -> None:
        path = folder / _LOCK
        try:
            self._file = open(path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by release
        except OSError as error:
            raise file_error(error, path, key) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read() or "another process"
            self._file.close()
            raise RecipeError(
                f"{key}: {folder} is being written by {owner}. Stop it, or choose another directory"
            ) from None
        except OSError as error:
            logger.warning("%s: this file system has no locks (%s). Do not start a second run here", folder, error)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}")
        self._file.flush()

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


def _changed_keys(old: Recipe, new: Recipe) -> list[str]:
    before, after = old.resolved_dict(), new.resolved_dict()
    free = dict(_FREE_KEYS)
    if old.optim.schedule == new.optim.schedule == "wsd":
        free["optim"] = {*free["optim"], "epochs"}  # the run resumes from a step at which the rates do not fall yet
    for section, key in _WRITTEN_BY_RUN:
        if after[section][key] is None:
            after[section][key] = before[section][key]
    return [
        f"{section}.{key} was {before[section].get(key)!r} and is now {after[section][key]!r}"
        for section in after
        for key in after[section]
        if key not in free.get(section, ()) and before[section].get(key) != after[section][key]
    ]
