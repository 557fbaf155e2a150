"""Run a whole pretraining, from a recipe to an exported and evaluated backbone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from bt_plugin.checkpoints.folder import checkpoints
from bt_plugin.checkpoints.state import with_weights_of
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.data.from_recipe import build_loader, open_sources
from bt_plugin.data.value_range import keep_range
from bt_plugin.errors import LostRankError, RecipeError
from bt_plugin.evaluation.final_evaluation import evaluate_finally
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.models.from_recipe import build_model
from bt_plugin.models.own_backbone import Factory
from bt_plugin.models.trial_forward import check_model
from bt_plugin.monitoring.callback import Callback
from bt_plugin.monitoring.collapse_warning import warn_of_lambda
from bt_plugin.monitoring.trackers import finish_trackers, tracker_options
from bt_plugin.optim.from_recipe import OptimizerFactory, build_optimizer
from bt_plugin.runs.backbone_source import with_source
from bt_plugin.runs.directory import INITIAL, RECIPE, check_run_dir, check_shared, claim_run_dir, with_recorded_range
from bt_plugin.runs.provenance import versions
from bt_plugin.runs.summary import Summary
from bt_plugin.runtime import collectives
from bt_plugin.runtime.accelerator import build_accelerator, check_compiler
from bt_plugin.runtime.stop_request import StopRequest
from bt_plugin.training.loop import Training
from bt_plugin.weights.checkpoint_file import read_safetensors
from bt_plugin.weights.export_folder import write_run_export
from bt_plugin.weights.safetensors_file import save_tensors
from bt_plugin.weights.warm_start import warm_start
from dali_pipelines.loaders import TwoViewLoader
from dali_pipelines.sources import ImageSource

logger = logging.getLogger(__name__)


def pretrain(
    recipe: Recipe,
    *,
    backbone: Factory | None = None,
    train: ImageSource | None = None,
    val: ImageSource | None = None,
    optimizer: OptimizerFactory = build_optimizer,
    callbacks: Sequence[Callback] = (),
) -> Summary:
    """Train, export and evaluate. Call it on every rank.

    Args:
        recipe: Recipe of the run, such as load_recipe returns.
        backbone: Function that builds the backbone, as in build_backbone. Its name replaces the recipe's
            model.backbone. It is called several times: the untrained baseline, the evaluations and the export need
            networks of their own.
        train: Training images that are already open. Default: those of data.train.
        val: Validation images that are already open. Default: those of data.val.
        optimizer: Function that builds the optimizer, as for TrainStep.
        callbacks: Callbacks of the run.

    Returns:
        The summary, which is also written to RUN/summary.json.

    Raises:
        CallbackError: If a callback fails.
        RecipeError: If the recipe cannot be run. It is checked before anything is written.
        BackboneError: If the user's function does not build a backbone.
        LaunchError: If the launched processes are not one group of ranks.
        DivergenceError: If too many steps in a row are not finite.
        CheckpointError: If a checkpoint cannot be written or restored.
        LostRankError: If another rank ended, or its host or network failed.
        PreemptedError: If a signal asked the run to stop. A checkpoint is written.
        StorageError: If the storage of the images does not answer. A checkpoint is written.
    """
    recipe = with_source(recipe, backbone)
    build = partial(build_model, recipe, backbone=backbone)
    with StopRequest() as stop, ExitStack() as held:
        try:
            ready = _prepare(recipe, build, held, train=train, val=val)
            training = Training(**ready._asdict(), build=build, optimizer=optimizer, callbacks=callbacks)
            # Close the writer before the directory is released, so that two runs never write there at once.
            held.callback(training.writer.close)
            training.run(stop)
            summary = _finish(training, ready.val)
        except torch.OutOfMemoryError as error:
            raise RecipeError(
                f"optim.accumulation_steps: {recipe.optim.accumulation_steps} is too few because the GPU's memory is"
                f" full ({str(error).partition('.')[0]}); use {2 * recipe.optim.accumulation_steps},"
                " model.activation_checkpointing=blocks, or a smaller optim.global_batch_size"
            ) from error
        except RuntimeError as error:
            if not collectives.is_lost_rank(error):
                raise
            raise LostRankError(
                "lost contact with another rank, or it did not answer within run.timeout_s"
                f" ({recipe.run.timeout_s}). Its own message gives the reason. Run the same command again to resume"
                f" from the last checkpoint. {error}"
            ) from error
    training.callbacks.end(summary)
    return summary


class _Ready(NamedTuple):
    """What a training needs, once everything is checked and the run's directory is claimed."""

    recipe: Recipe
    accelerator: Accelerator
    model: BarlowTwins
    loader: TwoViewLoader
    val: ImageSource | None


def _prepare(
    recipe: Recipe,
    build: Callable[[], BarlowTwins],
    held: ExitStack,
    *,
    train: ImageSource | None,
    val: ImageSource | None,
) -> _Ready:
    """Check everything, then claim the run's directory until the stack is closed."""
    accelerator = build_accelerator(recipe.run, **tracker_options(recipe))
    check_run_dir(recipe)
    recipe = with_recorded_range(recipe)
    check_compiler(recipe.run)
    check_model(recipe, build)
    model = build()
    train, val = open_sources(recipe, train=train, val=val)
    recipe = keep_range(recipe, train)
    recipe.steps_per_epoch(train.epoch_length)
    loader = build_loader(recipe, train, accelerator)
    if accelerator.is_main_process:
        warn_of_lambda(recipe.loss.lambda_param, recipe.model.projector[-1])
    recipe = _initialized(recipe, model)
    accelerator.wait_for_everyone()

    def claim() -> None:
        held.callback(claim_run_dir(recipe).release)
        if recipe.model.init is not None and not checkpoints(Path(recipe.run.output_dir)):
            save_tensors(model.backbone.state_dict(), Path(recipe.run.output_dir) / INITIAL)

    collectives.from_main(claim)
    check_shared(recipe)
    return _Ready(recipe, accelerator, model, loader, val)


def _initialized(recipe: Recipe, model: BarlowTwins) -> Recipe:
    """Give the model the weights of model.init if the run begins, and return the recipe with their hash."""
    choice, run_dir = recipe.model, Path(recipe.run.output_dir)
    if choice.init is None:
        return recipe
    if choice.init_sha256 is None and (run_dir / RECIPE).exists():
        choice = choice.model_copy(update={"init_sha256": load_recipe(run_dir / RECIPE).model.init_sha256})
    if not checkpoints(run_dir):
        found = warm_start(model, choice)
        choice = choice.model_copy(update={"init_sha256": found.sha256})
        if collectives.is_main():
            logger.info("the weights are those of %s: %s", choice.init, found.used)
    return recipe.model_copy(update={"model": choice})


def _initial_backbone(recipe: Recipe, build: Callable[[], BarlowTwins]) -> nn.Module | None:
    """Return the backbone as it was before the first step, if it had weights of model.init."""
    path = Path(recipe.run.output_dir) / INITIAL
    if recipe.model.init is None or not path.exists():
        return None
    backbone = build().backbone
    backbone.load_state_dict(read_safetensors(path))
    return backbone


def _finish(training: Training, val: ImageSource | None) -> Summary:
    """Export and evaluate the model, and write the summary."""
    recipe, accelerator, build = training.recipe, training.accelerator, training.build
    model = with_weights_of(training.model, build()).to(accelerator.device)
    if accelerator.is_main_process:
        write_run_export(model, recipe, run_dir=training.run_dir, step=training.step)
    online = training.online if recipe.eval.every_epochs else None
    scores = evaluate_finally(
        recipe,
        model,
        untrained=build(),
        initialized=_initial_backbone(recipe, build),
        train=training.loader.source,
        val=val,
        online=online,
        device=accelerator.device,
    )
    summary = Summary(
        run=str(training.run_dir),
        step=training.step,
        epochs=training.step / training.steps_per_epoch,
        world_size=accelerator.num_processes,
        device=accelerator.device.type,
        mixed_precision=accelerator.mixed_precision,
        best={name: {"value": value, "step": step} for name, (value, step) in training.best.values.items()},
        val_images=len(val) if val is not None and (scores["knn_top1"] or scores["linear_top1"]) else None,
        view_retrieval_images=online.retrieval_images if online is not None else None,
        **scores,
        versions=versions(),
    )
    if accelerator.is_main_process:
        summary.write()
    # end_training closes the trackers and the process group. No rank may leave the group before the others.
    accelerator.wait_for_everyone()
    finish_trackers(accelerator)
    accelerator.end_training()
    return summary
