"""Run one optimization step: forward and backward over all micro-batches, and the update of the weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import DivergenceError
from bt_plugin.evaluation.online_probe import build_probe
from bt_plugin.loss.accumulation import accumulated_backward
from bt_plugin.loss.barlow_twins import BarlowTwinsLoss, LossTerms
from bt_plugin.models.activation_checkpointing import checkpoint_activations
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.models.memory_format import lay_out
from bt_plugin.models.pool_before_relu import pool_before_relu
from bt_plugin.models.sync_batch_norm import SyncBatchNorm, finite_ranks, synchronize_batch_norm
from bt_plugin.optim.from_recipe import OptimizerFactory, build_optimizer, make_state, takes_found_inf
from bt_plugin.optim.tensors import clip_
from bt_plugin.training.nonfinite_capture import NonFiniteCapture
from bt_plugin.training.nonfinite_steps import NonFiniteSteps
from bt_plugin.training.step_norms import StepNorms
from dali_pipelines.loaders import Batch


class TrainStep:
    """Run optimization steps on a model: forward, backward, update.

    The host waits only for the step before this one, so that the device always has work. There are four exceptions:

    - fp16: the gradient scaler reads from the device whether to update.
    - An optimizer without ``found_inf``.
    - Views that a CPU computes for a GPU: their copy from pageable memory waits.
    - A capture, until a step is captured.

    Args:
        recipe: Recipe of the run. Its sections ``loss``, ``optim``, ``run`` and ``eval`` are used.
        accelerator: Accelerator of this rank.
        model: Model with its initial weights, the same on every rank. It is laid out, compiled and wrapped as the
            recipe says.
        num_classes: Number of classes of an online linear probe on the backbone's features. None: no probe.
        optimizer: Function that builds the optimizer. It must fulfill the contract of
            bt_plugin.optim.from_recipe.build_optimizer.
        capture: Where the first non-finite step is written. None: nowhere.

    Examples:
        >>> train_step = TrainStep(recipe, accelerator, build_model(recipe))
        >>> for batch in loader:
        ...     terms = train_step([batch])
    """

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        model: BarlowTwins,
        *,
        num_classes: int | None = None,
        optimizer: OptimizerFactory = build_optimizer,
        capture: NonFiniteCapture | None = None,
    ) -> None:
        run = recipe.run
        # Give every rank its own dropout. The weights already exist and are the same on every rank.
        set_seed((run.seed + accelerator.process_index) % 2**32)
        self._accelerator = accelerator
        self._run, self._optim = run, recipe.optim
        self._capture = capture
        self._views_format = torch.contiguous_format if run.memory_format == "contiguous" else torch.preserve_format
        self._loss = BarlowTwinsLoss(recipe.loss.lambda_param, gather_distributed=True, form=recipe.loss.form)
        model = _arranged(model, accelerator, recipe)
        self.optimizer = optimizer(recipe.optim, model)
        # The wrapped optimizer steps through the gradient scaler of fp16. The plain one is used for everything else.
        with warnings.catch_warnings():
            # torch 2.14 has another name for it, which Accelerate does not pass on.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.model, self._wrapped_optimizer = accelerator.prepare(model, self.optimizer)
        make_state(self.optimizer)
        self._plain: BarlowTwins = accelerator.unwrap_model(self.model)
        self.probe = (
            build_probe(recipe, self._plain, num_classes=num_classes, device=accelerator.device)
            if num_classes
            else None
        )
        self.norms = StepNorms(self._plain, every_steps=run.log_every_steps)
        self._statistics: list[Tensor] = []
        for module in self._plain.modules():
            if isinstance(module, SyncBatchNorm):
                module.seen = self._statistics
        self.restore_counts(steps=0, nonfinite_steps=0)

    def restore_counts(self, *, steps: int, nonfinite_steps: int) -> None:
        """Restore the step counts of a checkpoint. Call it after the weights are restored.

        Args:
            steps: Number of steps done, 0 or more.
            nonfinite_steps: Number of these steps that were not finite.
        """
        self.steps = steps
        self.nonfinite = NonFiniteSteps(
            self._plain, self._accelerator.device, most_in_a_row=self._run.max_nonfinite_steps, total=nonfinite_steps
        )

    def __call__(self, micro_batches: Sequence[Batch], lr_scale: float = 1.0) -> LossTerms:
        """Run one step. Call it on every rank.

        Args:
            micro_batches: This rank's micro-batches of the step, as the loader yields them. Together they are one
                batch. Every rank must pass the same number, with the same number of images.
            lr_scale: Factor of each parameter group's base learning rate, 0 or more. At 0 the weights do not change.

        Shape:
            - micro_batches: views (n, C, H, W) float for each, this rank's images.

        Returns:
            The terms of the loss over the global batch, as scalars on the device.

        Raises:
            DivergenceError: If too many steps in a row were not finite. This step is not yet counted.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_scale
        views = [self._on_device(batch) for batch in micro_batches]
        if self._capture:
            self._capture.before(views)
        terms = self._backward(views)
        with self.norms.measured(self.steps + 1, self._accelerator.scaler):
            found_inf = self._update(terms)
        if self.probe:
            self.probe.step([batch.targets for batch in micro_batches], found_inf)
        self._wrapped_optimizer.zero_grad()
        self.steps += 1
        names = [name for batch in micro_batches for name in batch.filenames]
        self.nonfinite.settle(self.steps, found_inf, finite_ranks(self._statistics, terms.finite), names)
        self._statistics.clear()
        if self._capture:
            self._capture.after(self.steps, found_inf, self.model, names)
        self.check_divergence(behind=1)
        return terms

    def check_divergence(self, *, behind: int) -> None:
        """Raise if too many steps in a row were not finite. Call it on every rank.

        Args:
            behind: Number of the newest steps that may stay unread, so that the host does not wait for them.

        Raises:
            DivergenceError: If too many steps were not finite. The message names the cause and the remedy.
        """
        cause = self.nonfinite.divergence(behind)
        if cause:
            raise DivergenceError(
                f"{cause}. Start a new run with lower {self._optim.rate_keys}, or with another"
                f" run.mixed_precision than {self._accelerator.mixed_precision}. The weights of the checkpoints in"
                f" {self._run.output_dir} are finite."
            )

    def _update(self, terms: LossTerms) -> Tensor:
        """Update the weights if the loss and all gradients are finite. Return 1 if they are not finite, else 0."""
        if self._accelerator.scaler is not None:
            # The gradient scaler checks the gradients itself, skips the update, and lowers its scale.
            self._accelerator.unscale_gradients(self._wrapped_optimizer)
            self._clip()
            self._wrapped_optimizer.step()
            return torch.full_like(terms.loss, float(self._accelerator.optimizer_step_was_skipped))
        found_inf = self.nonfinite.found_inf(terms.loss)
        self._clip()
        if takes_found_inf(self.optimizer):
            setattr(self.optimizer, "found_inf", found_inf)  # noqa: B010 - torch does not declare it
            self._wrapped_optimizer.step()
        elif not found_inf.item():
            self._wrapped_optimizer.step()
        return found_inf

    def _clip(self) -> None:
        """Limit the global norm of the gradient, as the recipe says."""
        most = self._optim.clip_grad_norm
        if most is not None:
            clip_([p.grad for p in self._plain.parameters() if p.grad is not None], most)

    def _backward(self, views: Sequence[tuple[Tensor, Tensor]]) -> LossTerms:
        backward = self._accelerator.backward
        if len(views) > 1:
            no_sync = partial(self._accelerator.no_sync, self.model)
            return accumulated_backward(self.model, self._loss, views, backward=backward, no_sync=no_sync)
        terms = self._loss.terms(*self.model(*views[0]))
        backward(terms.loss)
        return terms

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        view_a, view_b = (
            view.to(self._accelerator.device, non_blocking=True, memory_format=self._views_format)
            for view in batch.views
        )
        return view_a, view_b


def _arranged(model: BarlowTwins, accelerator: Accelerator, recipe: Recipe) -> BarlowTwins:
    """Return the model with BatchNorm over all ranks, laid out, checkpointed and compiled as the recipe says."""
    run = recipe.run
    on_gpu = accelerator.device.type == "cuda"
    if accelerator.num_processes > 1:
        model = synchronize_batch_norm(model)
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        if accelerator.ddp_handler is not None and all(isinstance(norm, SyncBatchNorm) for norm in norms):
            # Their running statistics are equal on all ranks, so DDP need not send them before each forward pass.
            accelerator.ddp_handler.broadcast_buffers = False
    pool_before_relu(model.backbone)
    if not accelerator.is_fsdp2:  # FSDP shards contiguous weights only
        model = lay_out(model, run.memory_format, by_layer=not (on_gpu or run.compile))
    checkpoint_activations(model.backbone, recipe.model.activation_checkpointing, compiled=run.compile)
    if run.compile:
        model.backbone.compile()
        model.projector.compile()
    return model
