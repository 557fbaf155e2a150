"""Who else is told of a run, through Accelerate; a run that goes on is the same run there."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import ProjectConfiguration
from numpy.typing import NDArray

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError
from bt_plugin.runs.directory import TENSORBOARD

logger = logging.getLogger(__name__)

_PROJECT = "bt_plugin"
# MLflow gives runs ids of its own; by this tag they are found again.
_MLFLOW_TAG = "bt_plugin.run_id"

Picture = NDArray[np.uint8]


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


def start_trackers(accelerator: Accelerator, recipe: Recipe, *, run_id: str, step: int) -> None:
    """Opens the recipe's trackers. To be called on every rank.

    Args:
        accelerator: Made with these trackers.
        recipe: Of the run.
        run_id: Of the run, the same in all its lives.
        step: That it goes on from; what TensorBoard has of later ones goes.
    """
    folder = Path(recipe.run.output_dir)
    config = recipe.resolved_dict()
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1},
        # Trackio knows a run by its name.
        "trackio": {"name": f"{folder.name}-{run_id[:8]}", "resume": "allow", "config": config},
        "wandb": {"id": run_id, "resume": "allow", "name": folder.name, "dir": str(folder), "config": config},
    }
    try:
        if "mlflow" in recipe.run.trackers and accelerator.is_main_process:
            options["mlflow"] = _mlflow_options(folder.name, run_id)
        accelerator.init_trackers(_PROJECT, init_kwargs=options)
        if "run_name" in options.get("mlflow", {}):
            # Once: MLflow takes no other value for a parameter, and a run may go on with other threads.
            accelerator.get_tracker("mlflow").store_init_configuration(recipe.flat_dict())
    except Exception as error:  # each tracker has errors of its own
        names = ", ".join(recipe.run.trackers)
        raise RecipeError(
            f"run.trackers: {names} cannot be started: {type(error).__name__}: {error}; correct the tracker's settings,"
            " or leave it out of run.trackers"
        ) from error


def tell_metrics(accelerator: Accelerator, values: Mapping[str, float | None], step: int) -> None:
    """Log numbers to the trackers. For rank 0; the other ranks have none.

    Args:
        accelerator: With its trackers open.
        values: By name.
        step: Of the run.
    """
    _each(accelerator, lambda tracker: tracker.log(dict(values), step=step))


def tell_pictures(accelerator: Accelerator, pictures: Mapping[str, Picture], step: int) -> None:
    """Log pictures to the trackers. For rank 0.

    Args:
        accelerator: With its trackers open.
        pictures: (height, width, 3), by name.
        step: Of the run.
    """
    for name, picture in pictures.items():
        _each(accelerator, lambda tracker: _TELL[tracker.name](tracker, name, picture, step))  # noqa: B023 - called at once


def finish_trackers(accelerator: Accelerator) -> None:
    """Close the trackers, before accelerator.end_training, which does not forgive one that fails."""
    _each(accelerator, lambda tracker: tracker.finish())
    accelerator.trackers.clear()


def _each(accelerator: Accelerator, action: Callable[[GeneralTracker], object]) -> None:
    """Do something with each tracker. One that fails is lost, and the run goes on: metrics.jsonl has it all."""
    for tracker in list(accelerator.trackers):
        try:
            action(tracker)
        except Exception as error:  # each tracker has errors of its own
            logger.warning(
                "run.trackers: %s is lost, and the run continues without it: %s: %s",
                tracker.name,
                type(error).__name__,
                error,
            )
            accelerator.trackers.remove(tracker)


def _mlflow_options(name: str, run_id: str) -> dict[str, Any]:
    import mlflow

    which = f"tags.`{_MLFLOW_TAG}` = '{run_id}'"
    experiments = [found.experiment_id for found in mlflow.search_experiments(filter_string=f"name = '{_PROJECT}'")]
    known = mlflow.search_runs(experiments, which, output_format="list") if experiments else []
    return {"run_id": known[0].info.run_id} if known else {"run_name": name, "tags": {_MLFLOW_TAG: run_id}}


def _to_tensorboard(tracker: GeneralTracker, name: str, picture: Picture, step: int) -> None:
    tracker.log_images({name: picture[None]}, step, dataformats="NHWC")


def _to_trackio(tracker: GeneralTracker, name: str, picture: Picture, step: int) -> None:
    import trackio

    tracker.log({name: trackio.Image(picture)}, step)


def _to_wandb(tracker: GeneralTracker, name: str, picture: Picture, step: int) -> None:
    tracker.log_images({name: [picture]}, step)


def _to_mlflow(tracker: GeneralTracker, name: str, picture: Picture, step: int) -> None:
    import mlflow

    mlflow.log_image(picture, key=name, step=step)


_TELL: dict[str, Callable[[GeneralTracker, str, Picture, int], None]] = {
    "tensorboard": _to_tensorboard,
    "trackio": _to_trackio,
    "wandb": _to_wandb,
    "mlflow": _to_mlflow,
}
