"""The directory of a run: whose it is, and what lies where.

RUN/recipe.yaml              every key, as it was resolved
RUN/metrics.jsonl            one line every run.log_every_steps
RUN/evaluations.jsonl        one line every eval.every_epochs
RUN/tensorboard/             the same
RUN/pictures/                what of each evaluation is drawn, and the views that it looks at
RUN/checkpoint-STEP/         what a run continues from
RUN/export/                  backbone and projector, for other programs
RUN/summary.json             the result
RUN/.lock                    who is writing here
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
_LOCK = ".lock"

# What may change between two launches of one run, because the images, views and objective stay the same.
_FREE_KEYS = {
    "optim": {"accumulation_steps"},
    "data": {"train", "val", "backend", "num_threads", "prefetch", "hw_decoder_load", "max_bad_files", "max_pixels"},
    "run": {
        "output_dir", "device", "log_every_steps", "checkpoint_every_steps", "keep_checkpoints", "resume", "max_steps",
        "timeout_s", "on_world_change", "max_nonfinite_steps", "deterministic", "trackers", "gradient_as_bucket_view",
        "static_graph", "memory_format", "compile",
    },
    "eval": set(Recipe.model_fields["eval"].default.__class__.model_fields),
}  # fmt: skip


def check_run_dir(recipe: Recipe) -> None:
    """Refuses a directory that is not this run's, and changes nothing.

    Raises:
        RecipeError: If the directory holds other files, another run, or a run that was not to be resumed.
    """
    folder = Path(recipe.run.output_dir)
    key = f"run.output_dir: {folder}"
    try:
        is_file = folder.exists() and not folder.is_dir()
    except OSError as error:
        raise file_error(error, folder, "run.output_dir") from error
    if is_file:
        raise RecipeError(f"{key} is a file; name a directory")
    check_output(folder / RECIPE, "run.output_dir")
    if not folder.exists() or not any(path.name != _LOCK for path in folder.iterdir()):
        return
    if not (folder / RECIPE).is_file():
        raise RecipeError(f"{key} has files in it that are no run's; name a directory that does not exist yet")
    if recipe.run.resume == "never":
        raise RecipeError(f"{key} holds a run already; name another directory, or set run.resume to latest")
    changed = _changed_keys(load_recipe(folder / RECIPE), recipe)
    if changed:
        raise RecipeError(
            f"{key} holds a run of another recipe, in which {'; '.join(changed)};"
            " name another directory, or restore these keys to continue that run"
        )


def claim_run_dir(recipe: Recipe) -> RunLock:
    """Make the directory, lock it, and write the resolved recipe into it, unless a run is resumed.

    Raises:
        RecipeError: If another process writes there, or the directory became another run's since it was checked.
        FileError: If it cannot be written.
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


def check_shared(recipe: Recipe, within_s: float = 60.0) -> None:
    """Refuses a directory that not all ranks see, for each writes a part of a checkpoint there. On every rank.

    Args:
        recipe: Of a run whose directory rank 0 has claimed.
        within_s: How long a network's file system may take to show what another machine wrote.

    Raises:
        RecipeError: If it is on a disk of rank 0's machine.
    """
    deadline_s = time.monotonic() + within_s
    folder = Path(recipe.run.output_dir)
    # A listing, unlike a look for one name, is not answered from what was seen before.
    while not (seen := folder.is_dir() and RECIPE in os.listdir(folder)) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    blind = [rank for rank, sees in enumerate(collectives.all_gather_objects(seen)) if not sees]
    if blind:
        raise RecipeError(
            f"run.output_dir: rank {', '.join(map(str, blind))} does not see what rank 0 wrote to {folder}; name a"
            " directory on a file system that all machines share"
        )


class RunLock:
    """One process at a time writes into a run's directory.

    The lock is the system's, on an open file: it ends with the process, however that ends. On a file system that
    has no locks there is none, and a warning says so.

    Args:
        folder: Of the run.

    Raises:
        RecipeError: If another process has it; the message says which, where and since when.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / _LOCK
        try:
            self._file = open(path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by release
        except OSError as error:
            raise file_error(error, path, "run.output_dir") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read() or "another process"
            self._file.close()
            raise RecipeError(
                f"run.output_dir: {folder} is being written by {owner}; stop it, or name another directory"
            ) from None
        except OSError as error:
            logger.warning("%s: this file system has no locks (%s); start no second run here", folder, error)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}")
        self._file.flush()

    def release(self) -> None:
        """Lets the next one in."""
        self._file.close()


def _changed_keys(old: Recipe, new: Recipe) -> list[str]:
    before, after = old.resolved_dict(), new.resolved_dict()
    return [
        f"{section}.{key} was {before[section][key]!r} and is {after[section][key]!r} now"
        for section in after
        for key in after[section]
        if key not in _FREE_KEYS.get(section, ()) and before[section].get(key) != after[section][key]
    ]
