"""Write the first non-finite step of a run to files, from which `bt-plugin replay` runs it again.

A skipped step leaves weights and buffers as they were before it, so no copy of them is made in other steps.

- RUN/nonfinite/step-STEP/recipe.yaml: the recipe
- RUN/nonfinite/step-STEP/weights.safetensors: weights and BatchNorm statistics before the step
- RUN/nonfinite/step-STEP/rank-RANK.safetensors: the views of a rank, and its random states before the step
- RUN/nonfinite/step-STEP/step.json: the other fields of CapturedStep
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from accelerate import Accelerator
from pydantic import BaseModel, Field
from torch import Tensor, nn

from bt_plugin.checkpoints.random_states import RandomStates, random_states
from bt_plugin.checkpoints.state import whole_weights
from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import FileError, file_error
from bt_plugin.runs.atomic_file import write_atomically
from bt_plugin.runs.directory import NONFINITE, RECIPE
from bt_plugin.runs.provenance import versions
from bt_plugin.runtime import collectives
from bt_plugin.weights.safetensors_file import save_tensors

logger = logging.getLogger(__name__)

STEP = "step.json"
WEIGHTS = "weights.safetensors"
RANDOM = "random."
Views = tuple[Tensor, Tensor]


class CapturedStep(BaseModel):
    """The file step.json of a captured step."""

    step: Annotated[int, Field(ge=1)]
    """Number of the step."""
    names: Annotated[list[list[str]], Field(min_length=1)]
    """Names of the images of each rank."""
    device: Literal["cpu", "cuda"]
    """Device of the run."""
    mixed_precision: Literal["no", "fp16", "bf16"]
    """Precision of the network in the run."""
    grad_scale: Annotated[float, Field(gt=0)]
    """Factor of the loss in the backward pass, which is not 1 with fp16."""
    versions: dict[str, str]
    """Versions of the packages."""


def rank_file(rank: int) -> str:
    """Return the name of a rank's file."""
    return f"rank-{rank}.safetensors"


class NonFiniteCapture:
    """A capture of the run's first non-finite step. Create one on every rank.

    Args:
        recipe: The run's recipe. If its directory already has a captured step, no other is captured.
        accelerator: Accelerator of this rank.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator) -> None:
        self._recipe = recipe
        self._accelerator = accelerator
        self._folder = Path(recipe.run.output_dir) / NONFINITE
        self._is_done = collectives.from_main(lambda: any(self._folder.glob(f"step-*/{STEP}")))
        self._before: _Before | None = None

    def before(self, views: Sequence[Views]) -> None:
        """Keep what a step begins with.

        Args:
            views: Both views of each micro-batch, on the device.
        """
        if not self._is_done:
            scaler = self._accelerator.scaler
            states = random_states(self._accelerator.device)
            self._before = _Before(views, states, 1.0 if scaler is None else scaler.get_scale())

    def after(self, step: int, found_inf: Tensor, model: nn.Module, names: list[str]) -> None:
        """Write the step if it was not finite. Call it on every rank, after the step was undone. The host waits.

        Args:
            step: Number of the step, from 1.
            found_inf: Scalar on the device, the same on every rank: 1 if the step was not finite.
            model: Model of the run, which may be sharded or wrapped.
            names: Names of this rank's images.
        """
        before, self._before = self._before, None
        if before is None or not found_inf.item():
            return
        self._is_done = True
        state, all_names = whole_weights(model), collectives.all_gather_objects(names)
        folder = self._folder / f"step-{step}"
        try:
            self._write(
                folder,
                before,
                state,
                CapturedStep(
                    step=step,
                    names=all_names,
                    device=self._accelerator.device.type,
                    mixed_precision=self._accelerator.mixed_precision,
                    grad_scale=before.grad_scale,
                    versions=versions(),
                ),
            )
        except FileError as error:
            # The run is worth more than its capture.
            logger.warning("step %d is not finite, and could not be captured: %s", step, error)
        else:
            if self._accelerator.is_main_process:
                logger.warning("step %d is not finite. To run it again: bt-plugin replay %s", step, folder)

    def _write(self, folder: Path, before: _Before, state: dict[str, Tensor], captured: CapturedStep) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise file_error(error, folder) from error
        views = {
            name: torch.stack([view.cpu() for view in of_batches])
            for name, of_batches in zip(("view_a", "view_b"), zip(*before.views))
        }
        states = {f"{RANDOM}{name}": value for name, value in before.random_states.items()}
        save_tensors({**views, **states}, folder / rank_file(self._accelerator.process_index))
        if self._accelerator.is_main_process:
            write_atomically(folder / RECIPE, self._recipe.to_yaml())
            # safetensors refuses weights that two layers share.
            save_tensors({name: value.cpu().clone() for name, value in state.items()}, folder / WEIGHTS)
            write_atomically(folder / STEP, captured.model_dump_json(indent=2) + "\n")


class _Before(NamedTuple):
    """What a step begins with.

    Args:
        views: Both views of each micro-batch, (n, C, H, W) each.
        random_states: This rank's random states.
        grad_scale: Factor of the loss in the backward pass.
    """

    views: Sequence[Views]
    random_states: RandomStates
    grad_scale: float
