"""Compute the exact gradient of a batch that is too large for one forward pass.

The cross-correlation matrix C is a statistic of the whole batch. The mean of the losses of micro-batches is therefore
another objective. But the loss depends on the embeddings only, so that three passes give the exact gradient:

1. Embed all micro-batches without an autograd graph.
2. Compute the gradient of the whole batch's loss with respect to the embeddings.
3. Embed each micro-batch again, and backpropagate its part of that gradient through the model.

This costs one more forward pass.

Source:
    Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
    https://arxiv.org/abs/2101.06983, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from bt_plugin.loss.barlow_twins import BarlowTwinsLoss, LossTerms
from bt_plugin.models.unmoved_buffers import unmoved_buffers


def accumulated_backward(
    model: nn.Module,
    loss: BarlowTwinsLoss,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> LossTerms:
    """Add the gradient of the loss over all micro-batches together to the parameters' gradients. Call it on every rank.

    BatchNorm computes its statistics per micro-batch. Its running statistics are updated once, not twice. Random
    numbers, such as those of dropout, are the same in both passes, and the generators end as after one pass.

    Args:
        model: Model that maps two views to two embeddings. It may be wrapped by DistributedDataParallel.
        loss: Loss over the whole batch; over the global batch if it gathers.
        micro_batches: Two views for each micro-batch, with the same number of samples in each.
        backward: Function that differentiates a scalar, such as Accelerator.backward.
        no_sync: Context that postpones DistributedDataParallel's all-reduce. It is entered for all micro-batches but
            the last.

    Shape:
        - views: (n / k, C, H, W) float, this rank's samples, for n samples in k micro-batches.

    Returns:
        The terms of the whole batch's loss.

    Examples:
        >>> micro_batches = [(view_a, view_b), (other_view_a, other_view_b)]
        >>> terms = accumulated_backward(model, BarlowTwinsLoss(), micro_batches)
        >>> optimizer.step()
    """
    device = micro_batches[0][0].device
    parts, random_states = [], []
    with torch.no_grad(), no_sync():
        for views in micro_batches:
            random_states.append(_random_state(device))
            parts.append(model(*views))
    z = [torch.cat(part).requires_grad_() for part in zip(*parts)]
    terms = loss.terms(*z)
    gradients = [gradient.chunk(len(micro_batches)) for gradient in torch.autograd.grad(terms.loss, z)]

    last = len(micro_batches) - 1
    with unmoved_buffers(model):
        for i, (views, state, *gradient) in enumerate(zip(micro_batches, random_states, *gradients)):
            # So that the second pass draws the same random numbers as the first.
            _set_random_state(state, device)
            with nullcontext() if i == last else no_sync():
                # Gradient scalers and hooks expect a scalar. The gradient of this one is the part of the embeddings.
                backward(sum((part * part_gradient).sum() for part, part_gradient in zip(model(*views), gradient)))
    return terms


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    of_cpu, of_gpu = state
    torch.set_rng_state(of_cpu)
    if of_gpu is not None:
        torch.cuda.set_rng_state(of_gpu, device)
