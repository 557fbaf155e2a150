"""The exact gradient of a batch that is too large to be embedded at once.

C is a statistic of the whole batch, so a mean of losses of micro-batches is another objective. But the
objective needs the embeddings only. So all micro-batches are embedded without a graph, the gradient
of the whole batch's loss by the embeddings is taken once, and each micro-batch is embedded again and
its part of that gradient sent through the model. It costs one more forward pass.

Source:
    Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup,
    https://arxiv.org/abs/2101.06983, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from bt_plugin.loss.barlow_twins import BarlowTwinsLoss, LossTerms


def accumulated_backward(
    model: nn.Module,
    loss: BarlowTwinsLoss,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    *,
    backward: Callable[[Tensor], None] = Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> LossTerms:
    """Adds to the parameters' gradients those of the loss over all micro-batches together.

    BatchNorm takes its statistics by micro-batch. Running statistics and random numbers, such as
    dropout's, move as in one pass, and both passes see the same ones.

    Args:
        model: From two views to two embeddings; may be wrapped by DistributedDataParallel.
        loss: Over the whole batch, of all ranks if it gathers.
        micro_batches: Two views each; equally many samples in each.
        backward: How a scalar is differentiated, such as Accelerator.backward.
        no_sync: Holds back DistributedDataParallel's all-reduce, until the last micro-batch.

    Shape:
        - views: (n / k, C, H, W) of this rank, for k micro-batches.

    Returns:
        The terms of the whole batch's loss.
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
    with _unmoved_buffers(model):
        for i, (views, state, *gradient) in enumerate(zip(micro_batches, random_states, *gradients)):
            # The second pass draws what the first drew, and ends where that ended.
            _set_random_state(state, device)
            with nullcontext() if i == last else no_sync():
                # A scalar whose gradient by the embeddings is theirs: what scalers and hooks expect.
                backward(sum((part * part_gradient).sum() for part, part_gradient in zip(model(*views), gradient)))
    return terms


@contextmanager
def _unmoved_buffers(model: nn.Module) -> Iterator[None]:
    """Afterwards BatchNorm's running statistics, and all other buffers, are as before."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    yield
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    of_cpu, of_gpu = state
    torch.set_rng_state(of_cpu)
    if of_gpu is not None:
        torch.cuda.set_rng_state(of_gpu, device)
