"""Who else is told the metrics, through Accelerate; a run that goes on is the same run there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from bt_plugin.errors import RecipeError
from bt_plugin.recipe import Recipe
from bt_plugin.rundir import TENSORBOARD

_PROJECT = "bt_plugin"


def tracker_options(recipe: Recipe) -> dict[str, Any]:
    """Of the Accelerator; which would leave out, without a word, what is not installed.

    Raises:
        RecipeError: If a tracker is not installed.
    """
    for name in recipe.run.trackers:
        if importlib.util.find_spec(name) is None:
            raise RecipeError(f"run.trackers: {name} is not installed; pip install {name}, or leave it out")
    folder = recipe.run.output_dir
    return {
        "log_with": recipe.run.trackers,
        "project_config": ProjectConfiguration(folder, str(Path(folder, TENSORBOARD))),
    }


def start_trackers(accelerator: Accelerator, recipe: Recipe, run_id: str, step: int) -> None:
    """Opens the recipe's trackers. To be called on every rank.

    Args:
        accelerator: Made with these trackers.
        recipe: Of the run.
        run_id: Of the run, the same in all its lives.
        step: That it goes on from; what TensorBoard has of later ones goes.
    """
    folder = Path(recipe.run.output_dir)
    options = {
        "tensorboard": {"purge_step": step + 1},
        "wandb": {
            "id": run_id,
            "resume": "allow",
            "name": folder.name,
            "dir": str(folder),
            "config": recipe.resolved_dict(),
        },
    }
    accelerator.init_trackers(_PROJECT, init_kwargs=options)
