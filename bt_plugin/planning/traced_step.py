"""Trace one real training step on fake tensors, which have shapes and no values.

Model, loss, optimizer and step are those of a run. So nothing about a network is assumed here: what a step allocates,
computes and sends is counted while it happens, in seconds, and on a machine without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from accelerate import Accelerator
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError, UserError
from bt_plugin.loss.barlow_twins import BarlowTwinsLoss
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.models.trial_forward import check_model
from bt_plugin.planning.fake_model import GpuAutocast, WithoutResults, build_without_memory, fix, make_fake
from bt_plugin.planning.fake_ranks import fake_rank, unseen_shapes, unverified
from bt_plugin.planning.step_meter import Collective, Operation, StepMeter
from bt_plugin.runtime import collectives
from bt_plugin.training.step import TrainStep
from dali_pipelines.loaders import Batch

# More micro-batches repeat the work of these.
MOST_MICRO_BATCHES = 2


class TracedStep(NamedTuple):
    """What one step of a rank allocates, computes and sends.

    Args:
        micro_batch_size: Images of one forward pass.
        micro_batches: Micro-batches that were traced, at most MOST_MICRO_BATCHES.
        peak_bytes: Allocated bytes at the peak of the step, by part.
        kept_bytes: Allocated bytes between two steps, by part.
        activation_bytes: Bytes of tensors that the backward pass needs, when all are there: "backbone", "projector".
        loss_bytes: Most bytes that the loss allocates for all micro-batches together, besides the embeddings.
        embedding_bytes: Bytes of the embeddings of both views of one micro-batch.
        operations: Operations of the step.
        collectives: Collectives of the step.
        weights: Number of weights of the model, over all ranks if they are sharded.
        stored_bytes: Bytes of the model's parameters and buffers, over all ranks if they are sharded.
        levels_bytes: Allocated bytes after each allocation of the step, in its order. Those in the loss are left out.
        at_loss_bytes: Allocated bytes when the loss begins.
    """

    micro_batch_size: int
    micro_batches: int
    peak_bytes: dict[str, int]
    kept_bytes: dict[str, int]
    activation_bytes: dict[str, int]
    loss_bytes: int
    embedding_bytes: int
    operations: list[Operation]
    collectives: list[Collective]
    weights: int
    stored_bytes: int
    levels_bytes: Sequence[int]
    at_loss_bytes: int


def trace_step(
    recipe: Recipe,
    *,
    micro_batch_size: int,
    world_size: int = 1,
    fsdp: bool = False,
    for_gpu: bool = True,
    build: Callable[[], BarlowTwins] | None = None,
) -> TracedStep:
    """Run one training step on fake tensors, and return what it needs.

    Args:
        recipe: Recipe of the run.
        micro_batch_size: Images of one forward pass on this rank, 2 or more.
        world_size: Number of ranks. Their collectives run in this process, without data.
        fsdp: Whether the ranks shard the weights.
        for_gpu: Whether the step is that of a GPU: its memory layout, and the operations that autocast computes in
            float32 there.
        build: Function that builds the model. Default: build_model of the recipe.

    Raises:
        RecipeError: If the network reads values during its forward pass, which fake tensors do not have.
        LaunchError: If this process already belongs to a group of ranks.
    """
    micro_batches = min(recipe.optim.accumulation_steps, MOST_MICRO_BATCHES)
    planned = _on_cpu(recipe, micro_batches, global_batch=micro_batch_size * micro_batches * world_size)
    n = micro_batch_size * recipe.optim.accumulation_steps
    with fake_rank(planned.run, world_size=world_size, fsdp=fsdp) as accelerator:
        model = build_without_memory(planned, build, laid_out=for_gpu and not accelerator.is_fsdp2)
        of_loss = _of_loss(recipe, n)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), ExitStack() as emulated:
                emulated.enter_context(WithoutResults())
                if for_gpu:
                    emulated.enter_context(GpuAutocast())
                return _traced(planned, accelerator, model, micro_batch_size)._replace(loss_bytes=of_loss)
        except UserError:
            raise
        except Exception as error:
            raise RecipeError(_explained(planned, build, error)) from error


def _explained(recipe: Recipe, build: Callable[[], BarlowTwins] | None, error: Exception) -> str:
    """Return why a step fails on fake tensors. Raise if it would fail in a run, too."""
    check_model(recipe, build)
    says = str(error).strip().split("\n")[0].rstrip(".")
    return (
        f"model.backbone: {recipe.model.backbone} cannot be planned, because its step fails on tensors without values:"
        f" {says}. Measure it with bt-plugin bench on a GPU"
    )


def trace_loss(recipe: Recipe, *, micro_batch_size: int, world_size: int = 1) -> int:
    """Return TracedStep.loss_bytes of a step, without tracing the rest of it.

    Args:
        recipe: Recipe of the run.
        micro_batch_size: Images of one forward pass on this rank, 2 or more.
        world_size: Number of ranks.
    """
    count = recipe.optim.accumulation_steps
    run = _on_cpu(recipe, count, global_batch=recipe.optim.global_batch_size).run
    with fake_rank(run, world_size=world_size, fsdp=False):
        return _of_loss(recipe, micro_batch_size * count)


def _of_loss(recipe: Recipe, n: int) -> int:
    loss = BarlowTwinsLoss(recipe.loss.lambda_param, gather_distributed=True, form=recipe.loss.form)
    return loss_bytes(loss, n=n, d=recipe.model.projector[-1])


def _on_cpu(recipe: Recipe, micro_batches: int, *, global_batch: int) -> Recipe:
    """Return the recipe of the step that is traced.

    It is a step that is logged, whose norms need a copy of the weights. fp16 has the sizes of bf16, and CPUs have no
    fp16.
    """
    run: dict[str, Any] = {"device": "cpu", "compile": False, "capture_nonfinite": False, "log_every_steps": 1}
    if recipe.run.mixed_precision == "fp16":
        run["mixed_precision"] = "bf16"
    if recipe.run.memory_format == "auto":
        run["memory_format"] = "channels_last"
    optim = {"accumulation_steps": micro_batches, "global_batch_size": global_batch}
    return recipe.model_copy(
        update={"run": recipe.run.model_copy(update=run), "optim": recipe.optim.model_copy(update=optim)}
    )


def _traced(recipe: Recipe, accelerator: Accelerator, model: BarlowTwins, n: int) -> TracedStep:
    micro_batches = recipe.optim.accumulation_steps
    with StepMeter() as meter, ExitStack() as hooked:
        make_fake(model, numbered=accelerator.is_fsdp2)
        fix(model)
        tensors = [*model.parameters(), *model.buffers()]
        weights = sum(parameter.numel() for parameter in model.parameters())
        stored_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        del tensors
        with unverified():
            train_step = TrainStep(recipe, accelerator, model)
        # It reads the ranks' batch sizes, which are equal here.
        train_step._loss._check_sizes = lambda *_: None  # type: ignore[method-assign]
        train_step._loss.terms = meter.on_its_own(train_step._loss.terms)  # type: ignore[method-assign]
        _mark_state(meter, train_step)
        activations = _follow(hooked, meter, train_step)
        batches = [_batch(recipe, n, meter) for _ in range(micro_batches)]
        meter.begin()
        train_step(batches)
        return TracedStep(
            micro_batch_size=n,
            micro_batches=micro_batches,
            peak_bytes=dict(meter.peak_bytes),
            kept_bytes=dict(meter.now_bytes),
            activation_bytes=activations,
            loss_bytes=0,
            embedding_bytes=2 * n * recipe.model.projector[-1] * 4,
            operations=meter.operations,
            collectives=meter.collectives,
            weights=weights,
            stored_bytes=stored_bytes,
            levels_bytes=tuple(meter.levels_bytes),
            at_loss_bytes=meter.outside_bytes,
        )


def _batch(recipe: Recipe, n: int, meter: StepMeter) -> Batch:
    views = tuple(
        torch.empty(n, view.channels, view.size_px, view.size_px, memory_format=torch.channels_last)
        for view in recipe.preset.views
    )
    for view in views:
        meter.mark(view, "views")
    return Batch(views=views, targets=torch.zeros(n, dtype=torch.int64), filenames=[""] * n)


def _mark_state(meter: StepMeter, train_step: TrainStep) -> None:
    """Say which memory is that of weights, of the optimizer's state and of gradients."""
    for tensor in (*train_step._plain.parameters(), *train_step._plain.buffers()):
        meter.mark(_local(tensor), "weights")
    for state in train_step.optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                meter.mark(_local(value), "optimizer")
    if isinstance(train_step.model, DistributedDataParallel):
        meter.claim("gradients")  # its buckets, which are the gradients' memory


def _follow(hooked: ExitStack, meter: StepMeter, train_step: TrainStep) -> dict[str, int]:
    """Follow the step through backbone, projector and loss, and mark gradients as soon as they exist.

    Returns:
        Where the bytes of activations by part are written.
    """
    model = train_step._plain
    activations = dict.fromkeys(("backbone", "projector"), 0)

    def entering(part: str) -> Callable[..., None]:
        return lambda *_: setattr(meter, "phase", part)

    def leaving(*_: Any) -> None:
        meter.phase = "loss"
        for part in activations:
            activations[part] = max(activations[part], meter.now_bytes.get(part, 0))

    for module, part in ((model.backbone, "backbone"), (model.projector, "projector")):
        hooked.callback(module.register_forward_pre_hook(entering(part)).remove)
        hooked.callback(module.register_forward_hook(leaving).remove)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda p: meter.mark(_local(p.grad), "gradients") if p.grad is not None else None
            )
    if isinstance(train_step.model, DistributedDataParallel):
        # torch checks the types of a named function, and this module does not import them.
        train_step.model.register_comm_hook(meter, lambda meter, bucket: _summed(meter, bucket))
    for name in ("all_reduce_sum_", "all_gather"):
        hooked.enter_context(patch.object(collectives, name, meter.waiting(getattr(collectives, name))))
    if hasattr(train_step._plain, "reshard"):
        hooked.enter_context(unseen_shapes(meter.unseen))
    return activations


def _summed(meter: StepMeter, bucket: Any) -> torch.futures.Future[Tensor]:
    """Note the sum of a bucket of gradients over all ranks, and return the bucket as it is."""
    buffer = bucket.buffer()
    meter.mark(buffer, "gradients")
    meter.collectives.append(Collective("all_reduce", buffer.numel() * buffer.element_size(), waits=False))
    future: torch.futures.Future[Tensor] = torch.futures.Future()
    future.set_result(buffer)
    return future


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a sharded tensor."""
    shard: Tensor = getattr(tensor, "_local_tensor", tensor)
    return shard


def loss_bytes(loss: BarlowTwinsLoss, *, n: int, d: int) -> int:
    """Return the most bytes that the loss and its gradient allocate, besides the embeddings. It needs no memory.

    Args:
        loss: The loss. If it gathers, call this on one rank of its group.
        n: Number of samples of this rank.
        d: Dimension D of the embeddings.
    """
    loss._check_sizes = lambda *_: None  # type: ignore[method-assign]
    with FakeTensorMode(), StepMeter() as meter:
        z_a, z_b = (torch.empty(n, d, requires_grad=True) for _ in range(2))
        for z in (z_a, z_b):
            meter.mark(z, "embeddings")
        torch.autograd.grad(loss(z_a, z_b), (z_a, z_b))
        return sum(size for part, size in meter.peak_bytes.items() if part != "embeddings")
