"""The training loop."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from bt_plugin.checkpoints.folder import CheckpointMetadata, read_metadata
from bt_plugin.checkpoints.resume import find_checkpoint
from bt_plugin.checkpoints.state import TrainingState
from bt_plugin.checkpoints.writer import CheckpointWriter
from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import CheckpointError, PreemptedError, RecipeError
from bt_plugin.evaluation.online import OnlineEvaluation
from bt_plugin.evaluation.online_probe import probed_classes
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.monitoring.callback import Callback, Callbacks
from bt_plugin.monitoring.meters import Best
from bt_plugin.monitoring.run_logger import RunLogger
from bt_plugin.monitoring.trackers import finish_trackers
from bt_plugin.optim.from_recipe import OptimizerFactory, build_optimizer
from bt_plugin.optim.schedule import scheduled, stable_steps
from bt_plugin.runtime import collectives
from bt_plugin.runtime.stop_request import StopRequest
from bt_plugin.training.nonfinite_capture import NonFiniteCapture
from bt_plugin.training.step import TrainStep
from dali_pipelines.errors import StorageError
from dali_pipelines.loaders import Batch, TwoViewLoader
from dali_pipelines.sources import ImageSource


class Training:
    """A run in progress: its state, and the training loop.

    Args:
        recipe: Recipe of the run.
        accelerator: Accelerator of this rank.
        build: Function that builds the run's model.
        model: Model with its initial weights.
        loader: Loader of this rank's two views.
        val: Validation images for the evaluation during the run.
        optimizer: Function that builds the optimizer, as for TrainStep.
        callbacks: Callbacks of the user.
    """

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        *,
        build: Callable[[], BarlowTwins],
        model: BarlowTwins,
        loader: TwoViewLoader,
        val: ImageSource | None = None,
        optimizer: OptimizerFactory = build_optimizer,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        run = recipe.run
        self.recipe = recipe
        self.accelerator = accelerator
        self.build = build
        self.loader = loader
        self.run_dir = Path(run.output_dir)
        source = loader.source
        # Accelerate does not prepare the loader, which shards itself, or the schedule, which depends on the step only.
        self.train_step = TrainStep(
            recipe,
            accelerator,
            model,
            num_classes=probed_classes(recipe, source),
            optimizer=optimizer,
            capture=NonFiniteCapture(recipe, accelerator) if run.capture_nonfinite else None,
        )
        timeout = timedelta(seconds=run.timeout_s)
        probe = self.train_step.probe
        self.online = OnlineEvaluation(recipe, build, source, val=val, device=accelerator.device, probe=probe)
        extras = {"probe": probe} if probe else {}
        self.state = TrainingState(accelerator, self.model, self.train_step.optimizer, timeout=timeout, extras=extras)
        self.steps_per_epoch = len(loader) // recipe.optim.accumulation_steps
        self.last_stable_step = stable_steps(recipe.optim, steps_per_epoch=self.steps_per_epoch)
        self.writer = CheckpointWriter(
            self.state, self.run_dir, keep=run.keep_checkpoints, keep_step=self.last_stable_step
        )
        self.total_steps = recipe.optim.epochs * self.steps_per_epoch
        self.last_step = min(self.total_steps, run.max_steps or self.total_steps)
        self.callbacks = Callbacks(callbacks, is_main=accelerator.is_main_process)
        self.best = Best()
        self.storage_failure: StorageError | None = None
        self._saved_step = 0
        self.run_id = uuid.uuid4().hex

    def run(self, stop: StopRequest) -> None:
        """Train to the last step, or until a stop is requested. Call it on every rank.

        The training resumes from the checkpoint that run.resume selects, or starts from the beginning.

        Args:
            stop: Request to stop, which a signal makes.

        Raises:
            PreemptedError: If a stop was requested, or another rank's callback or storage failed. A checkpoint is
                written.
            CallbackError: If a callback failed. A checkpoint is written.
            StorageError: If the storage of the images does not answer this rank. A checkpoint is written.
            DivergenceError: If too many steps in a row were not finite.
            CheckpointError: If a checkpoint cannot be written or restored.
            RecipeError: If the checkpoint does not match the recipe.
        """
        self._resume()
        stop.defer()
        vote = collectives.Vote(timedelta(seconds=self.recipe.run.timeout_s))
        every = self.recipe.run.checkpoint_every_steps or self.steps_per_epoch
        run_logger = RunLogger(
            self.accelerator,
            self.recipe,
            step=self.step,
            last_step=self.last_step,
            run_id=self.run_id,
            best=self.best,
            callbacks=self.callbacks,
        )
        with run_logger:
            while self.step < self.last_step:
                for micro_batches in self._loaded(run_logger, vote):
                    lr_scale = scheduled(self.recipe.optim, self.step, steps_per_epoch=self.steps_per_epoch)
                    terms = self.train_step(micro_batches, lr_scale)
                    run_logger.step_done()
                    if self.step % self.recipe.run.log_every_steps == 0:
                        run_logger.log(
                            self.step,
                            self._epoch,
                            terms,
                            rates=self._rates(),
                            norms=self.train_step.norms.values,
                            nonfinite=self.train_step.nonfinite.total,
                        )
                    self.callbacks.step(self.step, self._epoch, terms, self._rates())
                    self._evaluate(run_logger)
                    self._tell_checkpoint()
                    shall_stop = vote.ask(stop.is_made or self.writer.has_failed or self.callbacks.failure is not None)
                    if self.step % every == 0 or self.step in (self.last_step, self.last_stable_step) or shall_stop:
                        self.train_step.check_divergence(behind=0)
                        run_logger.settle()
                        self._save()
                    if self.step == self.last_step:
                        break
                    if shall_stop:
                        self._stop()
        self.writer.settle()
        self._tell_checkpoint()
        vote.close()
        if any(collectives.all_gather_objects(self.callbacks.failure is not None)):
            self._stop()

    @property
    def model(self) -> nn.Module:
        """The model, wrapped by the Accelerator."""
        model: nn.Module = self.train_step.model
        return model

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self.train_step.steps

    @property
    def _epoch(self) -> int:
        """Epoch of the last step, from 0."""
        return (self.step - 1) // self.steps_per_epoch

    def _loaded(self, run_logger: RunLogger, vote: collectives.Vote) -> Iterator[tuple[Batch, ...]]:
        """Yield the micro-batches of each step. If the storage of the images fails on any rank, save and end the run.

        Ranks agree before each step if their images are fetched, because a step needs the batches of all ranks.
        """
        steps = zip(*[run_logger.watch(self.loader)] * self.recipe.optim.accumulation_steps)
        agree = self.loader.source.reads_ahead > 0 or collectives.world_size() == 1
        while True:
            micro_batches = None
            try:
                micro_batches = next(steps, None)
            except StorageError as error:
                if not agree:
                    raise
                self.storage_failure = error
            if agree and vote.ask_now(self.storage_failure is not None):
                if self.step > self._saved_step:
                    self.train_step.check_divergence(behind=0)
                    run_logger.settle()
                    self._save()
                self._stop()
            if micro_batches is None:
                return
            yield micro_batches

    def _evaluate(self, run_logger: RunLogger) -> None:
        """Evaluate if it is time. Call it before the checkpoint is written, so that the checkpoint has the result."""
        every = self.recipe.eval.every_epochs
        if every and self.step % (every * self.steps_per_epoch) == 0:
            run_logger.evaluated(self.step, self._epoch, *self.online.run(self.model))

    def _stop(self) -> NoReturn:
        """End the training after its checkpoint.

        Raises:
            CallbackError: If a callback failed on this rank.
            StorageError: If the storage failed on this rank.
            PreemptedError: If not.
        """
        resume = f"Run the same command again to resume from {self.run_dir}/checkpoint-{self.step}"
        if self.step == 0:
            resume = "Run the same command again to start"
        self.writer.settle()
        finish_trackers(self.accelerator)
        self.accelerator.end_training()
        if self.callbacks.failure:
            raise self.callbacks.failure
        if self.storage_failure:
            raise StorageError(f"{self.storage_failure}. {resume}") from self.storage_failure
        raise PreemptedError(f"asked to stop at step {self.step}. {resume}.")

    def _tell_checkpoint(self) -> None:
        step = self.writer.take_written()
        if step is not None:
            self.callbacks.checkpoint(step, self.run_dir / f"checkpoint-{step}")

    def _rates(self) -> dict[str, float]:
        groups = self.train_step.optimizer.param_groups
        return {f"lr_{group['name']}": group["lr"] for group in groups if "name" in group}

    def _save(self) -> None:
        self.writer.settle()
        self._tell_checkpoint()
        self._saved_step = self.step
        self.writer.write(
            CheckpointMetadata(
                step=self.step,
                loader=self.loader.state_after(self.step),
                nonfinite_steps=int(self.train_step.nonfinite.total),
                world_size=self.accelerator.num_processes,
                run_id=self.run_id,
                best=dict(self.best.values),
            )
        )

    def _resume(self) -> None:
        world_size = self.accelerator.num_processes
        checkpoint = collectives.from_main(
            lambda: find_checkpoint(self.recipe, world_size, steps_per_epoch=self.steps_per_epoch)
        )
        if checkpoint is None:
            return
        metadata = read_metadata(checkpoint)
        self.state.restore(checkpoint, with_random_states=metadata.world_size == world_size)
        try:
            self.loader.load_state_dict(metadata.loader)
        except ValueError as error:
            raise RecipeError(f"{checkpoint}: {error}") from error
        done = metadata.loader["epoch"] * self.steps_per_epoch + metadata.loader["step"]
        if done != metadata.step:
            raise CheckpointError(
                f"{checkpoint}: its manifest is of step {metadata.step}, but its loader is at step {done}; resume from"
                " another checkpoint (run.resume)"
            )
        if metadata.world_size != world_size:
            seed = self.recipe.run.seed + metadata.step + self.accelerator.process_index
            set_seed(seed % 2**32)
        self._saved_step = metadata.step
        self.run_id, self.best = metadata.run_id, Best(metadata.best)
        self.train_step.restore_counts(steps=metadata.step, nonfinite_steps=metadata.nonfinite_steps)
