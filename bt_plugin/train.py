"""The training loop."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from tqdm.auto import tqdm

from bt_plugin import distributed
from bt_plugin.accelerator import build_accelerator
from bt_plugin.accumulate import accumulated_backward
from bt_plugin.build import build_model, loader_options, open_sources
from bt_plugin.checkpoint import Progress, read_progress
from bt_plugin.checkpoint_writer import CheckpointWriter
from bt_plugin.collapse import CollapseSigns, warn_of_lambda
from bt_plugin.errors import DivergenceError, LostRankError, PreemptedError, RecipeError
from bt_plugin.evaluate.report import evaluate_knn
from bt_plugin.export import export_model, versions
from bt_plugin.loss import BarlowTwinsLoss, LossTerms
from bt_plugin.method import BarlowTwins
from bt_plugin.monitor import Best, MetricsFile, Speed, progress_bar
from bt_plugin.nonfinite import NonFiniteSteps
from bt_plugin.optim import LARS, lr_scale, parameter_groups
from bt_plugin.preemption import StopRequest
from bt_plugin.recipe import Recipe
from bt_plugin.resume import find_checkpoint
from bt_plugin.rundir import SUMMARY, check_run_dir, check_shared, claim_run_dir, write_atomically
from bt_plugin.state import TrainingState, with_weights_of
from bt_plugin.trackers import start_trackers, tracker_options
from dali_pipelines.loaders import Batch, TwoViewLoader
from dali_pipelines.sources import ImageSource

logger = logging.getLogger(__name__)


def pretrain(recipe: Recipe) -> dict[str, Any]:
    """Trains, exports and evaluates, and returns the summary. To be called on every rank.

    Raises:
        RecipeError: For whatever cannot be run as the recipe says, before anything is written.
        LaunchError: If the launcher's ranks are not one group.
        DivergenceError: If too many steps in a row are not finite.
        CheckpointError: If a checkpoint cannot be written or restored.
        LostRankError: If another rank ended, or its host or network.
        PreemptedError: If a signal asked the run to stop; a checkpoint is written.
    """
    with StopRequest() as stop, ExitStack() as held:
        try:
            return _pretrain(recipe, stop, held)
        except RuntimeError as error:
            if not distributed.is_lost_rank(error):
                raise
            raise LostRankError(
                "contact with another rank is lost, or it did not answer within run.timeout_s"
                f" ({recipe.run.timeout_s}); its own message says why. The same line goes on from the last checkpoint."
                f" {error}"
            ) from error


def _pretrain(recipe: Recipe, stop: StopRequest, held: ExitStack) -> dict[str, Any]:
    accelerator = build_accelerator(recipe.run, **tracker_options(recipe))
    check_run_dir(recipe)
    batch_size = recipe.batch_size_per_rank(accelerator.num_processes)
    model = build_model(recipe)
    train_source, val_source = open_sources(recipe)
    recipe.steps_per_epoch(len(train_source))
    if accelerator.is_main_process:
        warn_of_lambda(recipe.loss.lambda_param, recipe.model.projector[-1])
    accelerator.wait_for_everyone()

    def claim() -> None:
        held.callback(claim_run_dir(recipe).release)

    distributed.from_main(claim)
    check_shared(recipe)
    loader = TwoViewLoader(
        train_source,
        batch_size,
        views=recipe.preset,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        seed=recipe.run.seed,
        prefetch=recipe.data.prefetch,
        micro_batches=recipe.optim.accumulation_steps,
        max_bad_files=recipe.data.max_bad_files,
        **loader_options(recipe, accelerator.device),
    )
    training = Training(recipe, accelerator, model, loader)
    # Before the directory is another's: nobody writes there unseen.
    held.callback(training.writer.close)
    training.run(stop)
    return _finish(training, train_source, val_source)


class Training:
    """A run in progress: the state, and the loop over it.

    Args:
        recipe: Of the run.
        accelerator: Of this rank.
        model: With its initial weights.
        loader: Of this rank's two views.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, model: BarlowTwins, loader: TwoViewLoader) -> None:
        # Each rank its own dropout; the weights are made already, and the same.
        set_seed(recipe.run.seed, device_specific=True)
        self.recipe = recipe
        self.accelerator = accelerator
        self.loader = loader
        self.run_dir = Path(recipe.run.output_dir)
        self.loss = BarlowTwinsLoss(recipe.loss.lambda_param, gather_distributed=True, form=recipe.loss.form)
        if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if not accelerator.is_fsdp2:  # which shards contiguous weights only
            model = model.to(memory_format=torch.channels_last)
        optim = recipe.optim
        rate = optim.global_batch_size / 256
        groups = parameter_groups(model, optim.lr_weights * rate, optim.lr_biases * rate, optim.weight_decay)
        optimizer = LARS(groups, lr=0.0, momentum=optim.momentum, eta=optim.eta)
        # The loader shards itself, and the schedule is a function of the step: neither is prepared.
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        optimizer.make_state()
        timeout = timedelta(seconds=recipe.run.timeout_s)
        self.state = TrainingState(accelerator, self.model, optimizer, timeout)
        self.writer = CheckpointWriter(self.state, self.run_dir, recipe.run.keep_checkpoints)
        self.steps_per_epoch = len(loader) // optim.accumulation_steps
        self.total_steps = optim.epochs * self.steps_per_epoch
        self.last_step = min(self.total_steps, recipe.run.max_steps or self.total_steps)
        self.step = 0
        self.nonfinite = NonFiniteSteps(accelerator.unwrap_model(self.model))
        self.collapse = CollapseSigns()
        self.best = Best()
        self.run_id = uuid.uuid4().hex

    def run(self, stop: StopRequest) -> None:
        """Trains from the newest checkpoint, or from the beginning, to the last step or until it shall stop."""
        self._resume()
        vote = distributed.Vote(timedelta(seconds=self.recipe.run.timeout_s))
        every = self.recipe.run.checkpoint_every_steps or self.steps_per_epoch
        accumulation = self.recipe.optim.accumulation_steps
        speed = Speed(self.recipe.optim.global_batch_size // accumulation)
        metrics = MetricsFile(self.run_dir, self.step) if self.accelerator.is_main_process else None
        start_trackers(self.accelerator, self.recipe, self.run_id, self.step)
        with progress_bar(self.last_step, self.step, self.accelerator.is_main_process) as bar:
            while self.step < self.last_step:
                batches = speed.watch(self.loader)
                for micro_batches in zip(*[batches] * accumulation):
                    terms = self._train_step(micro_batches)
                    bar.update()
                    if self.step % self.recipe.run.log_every_steps == 0:
                        self._log(terms, speed, metrics, bar)
                    shall_stop = vote.ask(stop.is_made or self.writer.has_failed)
                    if self.step % every == 0 or self.step == self.last_step or shall_stop:
                        self._save()
                    if self.step == self.last_step:
                        break
                    if shall_stop:
                        self.writer.settle()
                        self.accelerator.end_training()
                        raise PreemptedError(
                            f"asked to stop at step {self.step}; the same line goes on from"
                            f" {self.run_dir}/checkpoint-{self.step}"
                        )
        self.writer.settle()
        vote.close()
        if metrics:
            metrics.close()

    def _train_step(self, micro_batches: Sequence[Batch]) -> LossTerms:
        scale = self._lr_scale()
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * scale
        terms = self._backward([self._on_device(batch) for batch in micro_batches])
        if self.accelerator.scaler is None:
            is_sound = self.nonfinite.is_sound(terms.loss)
            if is_sound:
                self.optimizer.step()
        else:
            # Looks at the gradients itself, skips the step, and learns from it.
            self.optimizer.step()
            is_sound = not self.accelerator.optimizer_step_was_skipped
        self.nonfinite.settle(is_sound)
        self.optimizer.zero_grad()
        self.step += 1
        if self.nonfinite.in_a_row > self.recipe.run.max_nonfinite_steps:
            names = distributed.all_gather_objects([name for batch in micro_batches for name in batch.filenames])
            cause = self.nonfinite.explained(terms.finite.tolist(), names)
            raise DivergenceError(
                f"step {self.step}: {cause}. Start anew with lower optim.lr_weights and optim.lr_biases, or another"
                f" run.mixed_precision than {self.accelerator.mixed_precision}; the weights of the checkpoints in"
                f" {self.run_dir} are finite"
            )
        return terms

    def _backward(self, views: Sequence[tuple[Tensor, Tensor]]) -> LossTerms:
        backward = self.accelerator.backward
        if len(views) > 1:
            no_sync = partial(self.accelerator.no_sync, self.model)
            return accumulated_backward(self.model, self.loss, views, backward, no_sync)
        terms = self.loss.terms(*self.model(*views[0]))
        backward(terms.loss)
        return terms

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        view_a, view_b = (view.to(self.accelerator.device, non_blocking=True) for view in batch.views)
        return view_a, view_b

    def _lr_scale(self) -> float:
        optim = self.recipe.optim
        warmup_steps = round(optim.warmup_epochs * self.steps_per_epoch)
        return lr_scale(self.step, self.total_steps, warmup_steps, optim.final_lr_scale)

    def _log(self, terms: LossTerms, speed: Speed, metrics: MetricsFile | None, bar: tqdm[Any]) -> None:
        if metrics is None:
            return
        weights, biases = self.optimizer.param_groups
        names = ("loss", "invariance", "redundancy", "diagonal_mean", "embedding_std")
        values = {name: getattr(terms, name).item() for name in names}
        self.collapse.watch(self.step, values["diagonal_mean"], values["embedding_std"])
        self.best.watch(self.step, lower={"loss": values["loss"]})
        values |= {"lr_weights": weights["lr"], "lr_biases": biases["lr"], **speed.report()}
        values["nonfinite_steps"] = self.nonfinite.total
        metrics.write({"step": self.step, "epoch": (self.step - 1) // self.steps_per_epoch, **values})
        self.accelerator.log(values, step=self.step)
        bar.set_postfix_str(
            f"loss {values['loss']:.3f}, {values['images_per_s']:.0f} images/s, waiting {values['data_wait']:.0%}",
            refresh=False,
        )

    def _save(self) -> None:
        self.writer.write(
            Progress(
                step=self.step,
                loader=self.loader.state_dict(),
                nonfinite_steps=self.nonfinite.total,
                world_size=self.accelerator.num_processes,
                run_id=self.run_id,
                best=dict(self.best.values),
            )
        )

    def _resume(self) -> None:
        world_size = self.accelerator.num_processes
        checkpoint = distributed.from_main(lambda: find_checkpoint(self.recipe, world_size))
        if checkpoint is None:
            return
        progress = read_progress(checkpoint)
        self.state.restore(checkpoint, with_random_states=progress.world_size == world_size)
        try:
            self.loader.load_state_dict(progress.loader)
        except ValueError as error:
            raise RecipeError(f"{checkpoint}: {error}") from error
        if progress.world_size != world_size:
            set_seed(self.recipe.run.seed + progress.step, device_specific=True)
        self.step, self.run_id, self.best = progress.step, progress.run_id, Best(progress.best)
        self.nonfinite = NonFiniteSteps(self.accelerator.unwrap_model(self.model), progress.nonfinite_steps)


def _finish(training: Training, train: ImageSource, val: ImageSource | None) -> dict[str, Any]:
    """Export, evaluation, summary."""
    recipe, accelerator = training.recipe, training.accelerator
    model = with_weights_of(training.model, build_model(recipe)).to(accelerator.device)
    if accelerator.is_main_process:
        export_model(model, recipe, training.run_dir, training.step)
    knn = evaluate_knn(recipe, model, build_model(recipe), train, val, accelerator.device)
    summary = {
        "run": str(training.run_dir),
        "step": training.step,
        "epochs": training.step / training.steps_per_epoch,
        "world_size": accelerator.num_processes,
        "device": accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
        "best": {name: {"value": value, "step": step} for name, (value, step) in training.best.values.items()},
        "knn_top1": knn,
        "versions": versions(),
    }
    if accelerator.is_main_process:
        write_atomically(training.run_dir / SUMMARY, json.dumps(summary, indent=2) + "\n")
    # Closes the trackers, and the process group with them; no rank may leave it before the others.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return summary
