"""The training loop."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from bt_plugin.checkpoints.folder import CheckpointMetadata, read_metadata
from bt_plugin.checkpoints.resume import find_checkpoint
from bt_plugin.checkpoints.state import TrainingState
from bt_plugin.checkpoints.writer import CheckpointWriter
from bt_plugin.config.recipe import Recipe, Run
from bt_plugin.errors import CheckpointError, DivergenceError, PreemptedError, RecipeError
from bt_plugin.evaluate.online import OnlineEvaluation
from bt_plugin.evaluate.online_probe import OnlineProbe
from bt_plugin.loss.accumulation import accumulated_backward
from bt_plugin.loss.barlow_twins import BarlowTwinsLoss, LossTerms
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.models.memory_format import lay_out
from bt_plugin.models.pool_before_relu import pool_before_relu
from bt_plugin.monitoring.meters import Best
from bt_plugin.monitoring.run_logger import RunLogger
from bt_plugin.monitoring.trackers import finish_trackers
from bt_plugin.optim.lars import LARS
from bt_plugin.optim.parameter_groups import parameter_groups
from bt_plugin.optim.schedule import lr_scale
from bt_plugin.runtime import collectives
from bt_plugin.runtime.stop_request import StopRequest
from bt_plugin.training.nonfinite_steps import NonFiniteSteps
from dali_pipelines.loaders import Batch, TwoViewLoader
from dali_pipelines.sources import ImageSource


class Training:
    """A run in progress: the state, and the loop over it.

    Args:
        recipe: Of the run.
        accelerator: Of this rank.
        model: With its initial weights.
        loader: Of this rank's two views.
        val: Images that are evaluated on while it goes.
    """

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        model: BarlowTwins,
        loader: TwoViewLoader,
        val: ImageSource | None = None,
    ) -> None:
        # Each rank its own dropout; the weights are made already, and the same.
        run = recipe.run
        set_seed((run.seed + accelerator.process_index) % 2**32)
        self.recipe = recipe
        self.accelerator = accelerator
        self.loader = loader
        self.run_dir = Path(run.output_dir)
        self.loss = BarlowTwinsLoss(recipe.loss.lambda_param, gather_distributed=True, form=recipe.loss.form)
        self._views_format = torch.contiguous_format if run.memory_format == "contiguous" else torch.preserve_format
        model = _arranged(model, accelerator, run)
        optim = recipe.optim
        rate = optim.global_batch_size / 256
        groups = parameter_groups(model, optim.lr_weights * rate, optim.lr_biases * rate, optim.weight_decay)
        self.lars = LARS(groups, lr=0.0, momentum=optim.momentum, eta=optim.eta)
        # The loader shards itself, and the schedule is a function of the step: neither is prepared.
        self.model, self.optimizer = accelerator.prepare(model, self.lars)
        self.lars.make_state()
        timeout = timedelta(seconds=run.timeout_s)
        self.probe = self._build_probe()
        self.online = OnlineEvaluation(recipe, loader.source, val, accelerator.device, self.probe)
        extras = {"probe": self.probe} if self.probe else {}
        self.state = TrainingState(accelerator, self.model, self.lars, timeout, extras)
        self.writer = CheckpointWriter(self.state, self.run_dir, run.keep_checkpoints)
        self.steps_per_epoch = len(loader) // optim.accumulation_steps
        self.total_steps = optim.epochs * self.steps_per_epoch
        self.last_step = min(self.total_steps, run.max_steps or self.total_steps)
        self.step = 0
        self.nonfinite = self._counting(0)
        self.best = Best()
        self.run_id = uuid.uuid4().hex

    def run(self, stop: StopRequest) -> None:
        """Trains from the newest checkpoint, or from the beginning, to the last step or until it shall stop."""
        self._resume()
        stop.defer()
        vote = collectives.Vote(timedelta(seconds=self.recipe.run.timeout_s))
        every = self.recipe.run.checkpoint_every_steps or self.steps_per_epoch
        accumulation = self.recipe.optim.accumulation_steps
        run_logger = RunLogger(
            self.accelerator, self.recipe, self.step, self.last_step, run_id=self.run_id, best=self.best
        )
        with run_logger:
            while self.step < self.last_step:
                batches = run_logger.watch(self.loader)
                for micro_batches in zip(*[batches] * accumulation):
                    terms = self.train_step(micro_batches)
                    run_logger.step_done()
                    if self.step % self.recipe.run.log_every_steps == 0:
                        run_logger.log(self.step, self._epoch, terms, self.optimizer, self.nonfinite.total)
                    self._evaluate(run_logger)
                    shall_stop = vote.ask(stop.is_made or self.writer.has_failed)
                    if self.step % every == 0 or self.step == self.last_step or shall_stop:
                        self._check_divergence(behind=0)
                        run_logger.settle()
                        self._save()
                    if self.step == self.last_step:
                        break
                    if shall_stop:
                        self.writer.settle()
                        finish_trackers(self.accelerator)
                        self.accelerator.end_training()
                        raise PreemptedError(
                            f"asked to stop at step {self.step}; the same line goes on from"
                            f" {self.run_dir}/checkpoint-{self.step}"
                        )
        self.writer.settle()
        vote.close()

    @property
    def _epoch(self) -> int:
        """Of the last step."""
        return (self.step - 1) // self.steps_per_epoch

    def _evaluate(self, run_logger: RunLogger) -> None:
        """Before the checkpoint, which then knows of it."""
        every = self.recipe.eval.every_epochs
        if every and self.step % (every * self.steps_per_epoch) == 0:
            run_logger.evaluated(self.step, self._epoch, *self.online.run(self.model))

    def _build_probe(self) -> OnlineProbe | None:
        source, options = self.loader.source, self.recipe.eval
        if not (options.every_epochs and source.has_labels):
            return None
        model = self.accelerator.unwrap_model(self.model)
        feature_dim = model.projector[0].in_features
        return OnlineProbe(
            model.backbone,
            feature_dim,
            len(source.classes),
            self.accelerator.device,
            options.probe_lr,
            self.recipe.run.seed,
        )

    def train_step(self, micro_batches: Sequence[Batch]) -> LossTerms:
        """The loss of a step, and what it teaches. To be called on every rank.

        The host waits for the step before this one only, so that the device always has work; with fp16 for this one
        too, whose gradient scaler reads from the device whether it may step.

        Args:
            micro_batches: Of the step, as the loader hands them out.

        Raises:
            DivergenceError: If too many steps in a row were not finite, up to the one before.
        """
        scale = self._lr_scale()
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * scale
        terms = self._backward([self._on_device(batch) for batch in micro_batches])
        if self.accelerator.scaler is None:
            found_inf = self.lars.found_inf = self.nonfinite.found_inf(terms.loss)
            self.optimizer.step()
        else:
            # Looks at the gradients itself, skips the step, and learns from it.
            self.optimizer.step()
            found_inf = terms.loss.new_tensor(float(self.accelerator.optimizer_step_was_skipped))
        if self.probe:
            self.probe.step([batch.targets for batch in micro_batches], found_inf)
        self.optimizer.zero_grad()
        self.step += 1
        names = [name for batch in micro_batches for name in batch.filenames]
        self.nonfinite.settle(self.step, found_inf, terms.finite, names)
        self._check_divergence(behind=1)
        return terms

    def _check_divergence(self, behind: int) -> None:
        cause = self.nonfinite.divergence(behind)
        if cause:
            raise DivergenceError(
                f"{cause}. Start anew with lower optim.lr_weights and optim.lr_biases, or another"
                f" run.mixed_precision than {self.accelerator.mixed_precision}; the weights of the checkpoints in"
                f" {self.run_dir} are finite"
            )

    def _counting(self, nonfinite_steps: int) -> NonFiniteSteps:
        model = self.accelerator.unwrap_model(self.model)
        return NonFiniteSteps(model, self.accelerator.device, self.recipe.run.max_nonfinite_steps, nonfinite_steps)

    def _backward(self, views: Sequence[tuple[Tensor, Tensor]]) -> LossTerms:
        backward = self.accelerator.backward
        if len(views) > 1:
            no_sync = partial(self.accelerator.no_sync, self.model)
            return accumulated_backward(self.model, self.loss, views, backward, no_sync)
        terms = self.loss.terms(*self.model(*views[0]))
        backward(terms.loss)
        return terms

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        view_a, view_b = (
            view.to(self.accelerator.device, non_blocking=True, memory_format=self._views_format)
            for view in batch.views
        )
        return view_a, view_b

    def _lr_scale(self) -> float:
        optim = self.recipe.optim
        warmup_steps = round(optim.warmup_epochs * self.steps_per_epoch)
        return lr_scale(self.step, self.total_steps, warmup_steps, optim.final_lr_scale)

    def _save(self) -> None:
        self.writer.write(
            CheckpointMetadata(
                step=self.step,
                loader=self.loader.state_dict(),
                nonfinite_steps=int(self.nonfinite.total),
                world_size=self.accelerator.num_processes,
                run_id=self.run_id,
                best=dict(self.best.values),
            )
        )

    def _resume(self) -> None:
        world_size = self.accelerator.num_processes
        checkpoint = collectives.from_main(lambda: find_checkpoint(self.recipe, world_size))
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
                f"{checkpoint}: its manifest is of step {metadata.step}, and its loader of step {done}"
            )
        if metadata.world_size != world_size:
            seed = self.recipe.run.seed + metadata.step + self.accelerator.process_index
            set_seed(seed % 2**32)
        self.step, self.run_id, self.best = metadata.step, metadata.run_id, Best(metadata.best)
        self.nonfinite = self._counting(metadata.nonfinite_steps)


def _arranged(model: BarlowTwins, accelerator: Accelerator, run: Run) -> BarlowTwins:
    """The same weights, normalised over all ranks, laid out and compiled as the recipe says."""
    on_gpu = accelerator.device.type == "cuda"
    if on_gpu and accelerator.num_processes > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    pool_before_relu(model.backbone)
    if not accelerator.is_fsdp2:  # which shards contiguous weights only
        model = lay_out(model, run.memory_format, by_layer=not (on_gpu or run.compile))
    if run.compile:
        model.backbone.compile()
        model.projector.compile()
    return model
