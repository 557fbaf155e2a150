"""One optimization step: micro-batches in, the terms of the loss out, the weights moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from bt_plugin.config.recipe import Optim, Recipe, Run
from bt_plugin.errors import DivergenceError
from bt_plugin.evaluate.online_probe import build_probe
from bt_plugin.loss.accumulation import accumulated_backward
from bt_plugin.loss.barlow_twins import BarlowTwinsLoss, LossTerms
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.models.memory_format import lay_out
from bt_plugin.models.pool_before_relu import pool_before_relu
from bt_plugin.optim.from_recipe import build_optimizer, make_state, takes_found_inf
from bt_plugin.training.nonfinite_steps import NonFiniteSteps
from dali_pipelines.loaders import Batch


class TrainStep:
    """Run optimization steps on a model: forward, backward, update.

    The host waits only for the step before this one, so that the device always has work. There are three exceptions:
    fp16, whose gradient scaler reads from the device whether to update; an optimizer without ``found_inf``; and views
    that a CPU computed for a GPU, whose copy from pageable memory waits.

    Args:
        recipe: Its sections loss, optim, run and eval are used.
        accelerator: This rank's.
        model: With its initial weights. It is laid out, compiled and wrapped as the recipe says.
        num_classes: If given, a linear classifier of so many classes learns from the backbone's features.
        optimizer: Builds the optimizer. Its contract is in bt_plugin.optim.from_recipe.build_optimizer.

    Example:
        >>> train_step = TrainStep(recipe, accelerator, build_model(recipe))  # doctest: +SKIP
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
        optimizer: Callable[[Optim, nn.Module], torch.optim.Optimizer] = build_optimizer,
    ) -> None:
        run = recipe.run
        # Every rank has its own dropout. The weights exist already, the same on every rank.
        set_seed((run.seed + accelerator.process_index) % 2**32)
        self._accelerator = accelerator
        self._run = run
        self._views_format = torch.contiguous_format if run.memory_format == "contiguous" else torch.preserve_format
        self._loss = BarlowTwinsLoss(recipe.loss.lambda_param, gather_distributed=True, form=recipe.loss.form)
        model = _arranged(model, accelerator, run)
        self.optimizer = optimizer(recipe.optim, model)
        # The wrapped optimizer steps by the gradient scaler of fp16; all else is done with the plain one.
        self.model, self._wrapped_optimizer = accelerator.prepare(model, self.optimizer)
        make_state(self.optimizer)
        self._plain: BarlowTwins = accelerator.unwrap_model(self.model)
        self.probe = (
            build_probe(recipe, self._plain, num_classes=num_classes, device=accelerator.device)
            if num_classes
            else None
        )
        self.restore_counts(steps=0, nonfinite_steps=0)

    def restore_counts(self, *, steps: int, nonfinite_steps: int) -> None:
        """Continue the counts of a checkpoint. Call it after the weights are restored.

        Args:
            steps: Steps done.
            nonfinite_steps: How many of them were not finite.
        """
        self.steps = steps
        self.nonfinite = NonFiniteSteps(
            self._plain, self._accelerator.device, most_in_a_row=self._run.max_nonfinite_steps, total=nonfinite_steps
        )

    def __call__(self, micro_batches: Sequence[Batch], lr_scale: float = 1.0) -> LossTerms:
        """Run one step. Call it on every rank.

        Args:
            micro_batches: The step's batches, as the loader yields them. Several are one large batch.
            lr_scale: Factor of each parameter group's base rate. At 0 the weights stay as they are.

        Returns:
            The terms of the loss of the global batch, on the device.

        Raises:
            DivergenceError: If too many steps in a row were not finite, up to the one before.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_scale
        terms = self._backward([self._on_device(batch) for batch in micro_batches])
        found_inf = self._update(terms)
        if self.probe:
            self.probe.step([batch.targets for batch in micro_batches], found_inf)
        self._wrapped_optimizer.zero_grad()
        self.steps += 1
        names = [name for batch in micro_batches for name in batch.filenames]
        self.nonfinite.settle(self.steps, found_inf, terms.finite, names)
        self.check_divergence(behind=1)
        return terms

    def check_divergence(self, *, behind: int) -> None:
        """Raise if too many steps in a row were not finite. Call it on every rank.

        Args:
            behind: How many of the last steps may stay unread, so that the host does not wait for them.

        Raises:
            DivergenceError: With the cause and the remedy.
        """
        cause = self.nonfinite.divergence(behind)
        if cause:
            raise DivergenceError(
                f"{cause}. Start anew with lower optim.lr_weights and optim.lr_biases, or another"
                f" run.mixed_precision than {self._accelerator.mixed_precision}; the weights of the checkpoints in"
                f" {self._run.output_dir} are finite"
            )

    def _update(self, terms: LossTerms) -> Tensor:
        """Move the weights, unless loss or gradients are not finite. Return whether they are not, as 1 or 0."""
        if self._accelerator.scaler is not None:
            # The gradient scaler looks at the gradients itself, skips the update, and lowers its scale.
            self._wrapped_optimizer.step()
            return terms.loss.new_tensor(float(self._accelerator.optimizer_step_was_skipped))
        found_inf = self.nonfinite.found_inf(terms.loss)
        if takes_found_inf(self.optimizer):
            setattr(self.optimizer, "found_inf", found_inf)  # noqa: B010 - torch does not declare it
            self._wrapped_optimizer.step()
        elif not found_inf.item():
            self._wrapped_optimizer.step()
        return found_inf

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


def _arranged(model: BarlowTwins, accelerator: Accelerator, run: Run) -> BarlowTwins:
    """Return the model with the same weights, normalised over all ranks, laid out and compiled as the recipe says."""
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
