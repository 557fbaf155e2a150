"""Choose the checkpoint that a run resumes from, with the same or another number of ranks."""

from __future__ import annotations

import logging
from pathlib import Path

from bt_plugin.checkpoints.folder import (
    CheckpointMetadata,
    checkpoints,
    damage_of,
    read_metadata,
    resume_from,
    set_aside_after,
    step_of,
)
from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError
from bt_plugin.optim.schedule import stable_steps
from bt_plugin.runs.directory import record_epochs, recorded_epochs

logger = logging.getLogger(__name__)


def find_checkpoint(recipe: Recipe, world_size: int, *, steps_per_epoch: int) -> Path | None:
    """Return the checkpoint to resume from, None to start from the beginning. Call this on rank 0.

    Newer checkpoints are renamed to superseded-checkpoint-STEP. They are damaged, or the run writes their steps again.

    If optim.epochs has changed, the checkpoint is from before any decay of the learning rates, and the run's
    recipe.yaml gets the new number.

    Args:
        recipe: The run's recipe.
        world_size: Number of ranks that resume.
        steps_per_epoch: Number of steps of an epoch, the same on every rank.

    Raises:
        RecipeError: If the recipe's checkpoint is not usable, or if another number of ranks wrote it and the recipe
            does not allow that. Nothing has been changed.
    """
    run_dir, epochs = Path(recipe.run.output_dir), recipe.optim.epochs
    before = recorded_epochs(run_dir, default=epochs)
    until = None if epochs == before else _last_common_step(recipe, before, steps_per_epoch)
    checkpoint = resume_from(run_dir, recipe.run.resume, until=until)
    if checkpoint is None and until is not None and checkpoints(run_dir):
        raise RecipeError(
            f"optim.epochs: was {before} and is now {epochs}, so that the run must resume from a step up to {until},"
            f" before its learning rates fall. {run_dir} has no such checkpoint. Set optim.epochs to {before}, or"
            " choose another run.output_dir"
        )
    if checkpoint is not None:
        metadata = read_metadata(checkpoint)
        if metadata.world_size != world_size:
            checkpoint = _for_another_world(recipe, checkpoint, metadata, world_size)
        logger.info("resuming from %s", checkpoint)
        for path in set_aside_after(run_dir, checkpoint):
            logger.warning("%s is not used, and is renamed to superseded-%s", path, path.name)
    if epochs != before:
        record_epochs(run_dir, epochs)
        logger.info("optim.epochs was %d and is now %d. The decay of the learning rates moves", before, epochs)
    return checkpoint


def _last_common_step(recipe: Recipe, epochs: int, steps_per_epoch: int) -> int:
    """Return the last step up to which the recipe's schedule is that of another number of epochs."""
    other = recipe.optim.model_copy(update={"epochs": epochs})
    ends = [stable_steps(optim, steps_per_epoch=steps_per_epoch) for optim in (recipe.optim, other)]
    return min(end for end in ends if end is not None)


def _for_another_world(recipe: Recipe, checkpoint: Path, metadata: CheckpointMetadata, world_size: int) -> Path:
    changed = f"{checkpoint.name} was written by {metadata.world_size} ranks, and this run has {world_size}"
    in_mid_epoch = metadata.loader["step"] > 0
    if in_mid_epoch and recipe.run.on_world_change == "refuse":
        raise RecipeError(
            f"run.on_world_change: {changed}, in the middle of epoch {metadata.loader['epoch']}. Resume with"
            f" {metadata.world_size} ranks, or set run.on_world_change to 'epoch' (restart from the last epoch"
            " boundary) or 'continue' (resume from this step)"
        )
    if in_mid_epoch and recipe.run.on_world_change == "epoch":
        checkpoint = _at_an_epochs_edge(checkpoint)
    logger.warning("%s: global batches are unchanged, but are divided anew. Random states are new", changed)
    return checkpoint


def _at_an_epochs_edge(checkpoint: Path) -> Path:
    for path in reversed(checkpoints(checkpoint.parent)):
        is_before = step_of(path) <= step_of(checkpoint)
        if is_before and damage_of(path) is None and read_metadata(path).loader["step"] == 0:
            return path
    raise RecipeError(
        f"run.on_world_change: epoch is not possible, because no checkpoint of {checkpoint.parent} is at an epoch"
        " boundary. Resume with the same number of ranks as before, or set run.on_world_change to 'continue'"
    )
