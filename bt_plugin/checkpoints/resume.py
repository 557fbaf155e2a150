"""Which checkpoint a run goes on from, on as many ranks as before or on others."""

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
)
from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError

logger = logging.getLogger(__name__)


def find_checkpoint(recipe: Recipe, world_size: int) -> Path | None:
    """The checkpoint to continue from, None to start from the beginning. For rank 0.

    Newer ones, damaged or of a future that will not be, are renamed to superseded-checkpoint-STEP.

    Args:
        recipe: Of the run.
        world_size: Ranks that continue.

    Raises:
        RecipeError: If the recipe's checkpoint is none, or is of another number of ranks and must not be continued.
    """
    run_dir = Path(recipe.run.output_dir)
    checkpoint = resume_from(run_dir, recipe.run.resume)
    if checkpoint is None:
        return None
    metadata = read_metadata(checkpoint)
    if metadata.world_size != world_size:
        checkpoint = _for_another_world(recipe, checkpoint, metadata, world_size)
    logger.info("continuing from %s", checkpoint)
    for path in set_aside_after(run_dir, checkpoint):
        logger.warning("%s is not continued from, and is called superseded-%s now", path, path.name)
    return checkpoint


def _for_another_world(recipe: Recipe, checkpoint: Path, metadata: CheckpointMetadata, world_size: int) -> Path:
    changed = f"{checkpoint.name} is of {metadata.world_size} ranks, and these are {world_size}"
    in_mid_epoch = metadata.loader["step"] > 0
    if in_mid_epoch and recipe.run.on_world_change == "refuse":
        raise RecipeError(
            f"run.on_world_change: {changed}, in the middle of epoch {metadata.loader['epoch']}; launch as many as"
            " before, or take epoch, which goes back to the epoch's edge, or continue, which goes on from here"
        )
    if in_mid_epoch and recipe.run.on_world_change == "epoch":
        checkpoint = _at_an_epochs_edge(checkpoint)
    logger.warning("%s: images are shared out anew, the global batches stay; random states are new", changed)
    return checkpoint


def _at_an_epochs_edge(checkpoint: Path) -> Path:
    for path in reversed(checkpoints(checkpoint.parent)):
        if damage_of(path) is None and read_metadata(path).loader["step"] == 0:
            return path
    raise RecipeError(
        f"run.on_world_change: epoch is not possible: no checkpoint of {checkpoint.parent} is at an epoch's edge;"
        " launch as many ranks as before, or take continue"
    )
