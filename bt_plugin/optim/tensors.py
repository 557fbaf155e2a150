"""What every optimizer needs of tensors: one memory layout, this rank's shards, and norms of whole tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def like(p: Tensor, tensor: Tensor) -> Tensor:
    """Return the tensor in the memory layout of p. torch's fused kernels pair numbers by address, without a check."""
    return tensor if tensor.stride() == p.stride() else torch.empty_like(p).copy_(tensor)


def local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return this rank's shards of the tensors that are sharded, and the other tensors as they are."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of each tensor, (len(tensors),). Those of sharded tensors are of the whole tensors.

    Args:
        tensors: One tensor or more, all on one device and of one dtype. Either all are sharded, or none is. If they
            are, call this function on every rank.
    """
    found = torch.stack(torch._foreach_norm(list(tensors)))
    return found.full_tensor() if isinstance(found, DTensor) else found


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all tensors together, a scalar on their device. The host does not wait for it.

    Args:
        tensors: As in norms, such as the gradients of a model.

    Examples:
        >>> float(global_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]))
        5.0
    """
    total: Tensor = torch.linalg.vector_norm(norms(tensors))
    return total


def clip_(gradients: Sequence[Tensor], most: float) -> Tensor:
    """Scale gradients so that their global norm is at most a given number. The host does not wait for it.

    Args:
        gradients: As in norms. They are changed in place. If their norm is not finite, all of them become NaN or 0.
        most: Largest global norm, above 0.

    Returns:
        The global norm before, a scalar on the device.

    Source:
        The formula of torch.nn.utils.clip_grad_norm_.

    Examples:
        >>> gradient = torch.tensor([3.0, 4.0])
        >>> float(clip_([gradient], most=1.0)), gradient
        (5.0, tensor([0.6000, 0.8000]))
    """
    total = global_norm(gradients)
    torch._foreach_mul_(local(gradients), (most / (total + 1e-6)).clamp(max=1.0))
    return total
