"""Log a run to trackers through Accelerate. A resumed run stays the same run in each tracker."""

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
# MLflow gives runs its own IDs. This tag finds them again.
_MLFLOW_TAG = "bt_plugin.run_id"

Picture = NDArray[np.uint8]


def tracker_options(recipe: Recipe) -> dict[str, Any]:
    """Return the Accelerator's tracking arguments. Accelerate itself would skip a missing tracker silently.

    Raises:
        RecipeError: If a tracker is not installed.
    """
    for name in recipe.run.trackers:
        if importlib.util.find_spec(name) is None:
            raise RecipeError(
                f"run.trackers: {name} is not installed. Run `pip install {name}`, or remove it from run.trackers"
            )
    folder = recipe.run.output_dir
    return {
        "log_with": recipe.run.trackers,
        "project_config": ProjectConfiguration(folder, str(Path(folder, TENSORBOARD))),
    }


def start_trackers(accelerator: Accelerator, recipe: Recipe, *, run_id: str, step: int) -> None:
    """Open the recipe's trackers. Call this on every rank.

    Args:
        accelerator: Accelerator that was created with tracker_options.
        recipe: The run's recipe.
        run_id: ID of the run, which stays the same when the run resumes.
        step: Step that the run starts or resumes at. TensorBoard removes its entries of later steps.
    """
    folder = Path(recipe.run.output_dir)
    config = recipe.resolved_dict()
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1},
        # Trackio identifies a run by its name.
        "trackio": {"name": f"{folder.name}-{run_id[:8]}", "resume": "allow", "config": config},
        "wandb": {"id": run_id, "resume": "allow", "name": folder.name, "dir": str(folder), "config": config},
    }
    try:
        if "mlflow" in recipe.run.trackers and accelerator.is_main_process:
            options["mlflow"] = _mlflow_options(folder.name, run_id)
        accelerator.init_trackers(_PROJECT, init_kwargs=options)
        if "run_name" in options.get("mlflow", {}):
            # Only once: MLflow refuses a new value for a parameter, but a resumed run may have other values.
            accelerator.get_tracker("mlflow").store_init_configuration(recipe.flat_dict())
    except Exception as error:  # each tracker has errors of its own
        names = ", ".join(recipe.run.trackers)
        raise RecipeError(
            f"run.trackers: {names} cannot be started: {type(error).__name__}: {error}. Correct the tracker's settings,"
            " or remove it from run.trackers"
        ) from error


def tell_metrics(accelerator: Accelerator, values: Mapping[str, float | None], step: int) -> None:
    """Log metrics to the trackers. Call this on rank 0; the other ranks have no trackers.

    Args:
        accelerator: Accelerator with open trackers.
        values: Metrics by name.
        step: Step of the run.
    """
    _each(accelerator, lambda tracker: tracker.log(dict(values), step=step))


def tell_pictures(accelerator: Accelerator, pictures: Mapping[str, Picture], step: int) -> None:
    """Log pictures to the trackers. Call this on rank 0.

    Args:
        accelerator: Accelerator with open trackers.
        pictures: Pictures (height, width, 3) by name.
        step: Step of the run.
    """
    for name, picture in pictures.items():
        _each(accelerator, lambda tracker: _TELL[tracker.name](tracker, name, picture, step))  # noqa: B023 - called at once


def finish_trackers(accelerator: Accelerator) -> None:
    """Close the trackers. Call this before accelerator.end_training, which raises if a tracker fails."""
    _each(accelerator, lambda tracker: tracker.finish())
    accelerator.trackers.clear()


def _each(accelerator: Accelerator, action: Callable[[GeneralTracker], object]) -> None:
    """Do something with each tracker. Drop one that fails, because metrics.jsonl has everything anyway."""
    for tracker in list(accelerator.trackers):
        try:
            action(tracker)
        except Exception as error:  # each tracker has errors of its own
            logger.warning(
                "run.trackers: %s failed, and the run continues without it: %s: %s",
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
