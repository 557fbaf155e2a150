"""The optimizer and the schedule of the official code, and nothing that keeps a count of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

# Numbers of a weight that the cores divide at a time, in either pass: each finds in its cache what it has read before.
# With the second pass over whole weights 27 instead of 16 ms a step (two cores, ResNet-18, 3 x 2048).
_PIECE = 2**18


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017), by the rule of the official code.

    A group that adapts scales decayed gradients g + wd * p by eta * |p| / |g + wd * p|, so that its
    weights do not feel the gradient's scale. lightly.utils.lars.LARS divides by |g| + wd * |p|
    instead, and does not adapt at all where the weight decay is 0.

    A few kernels move all parameters of a group; on a CPU, one reads a weight and one moves it. If "found_inf" is
    set, a float32 scalar as GradScaler gives it to torch's fused optimizers, a step where it is 1 changes nothing;
    nobody has to read it for that.

    Args:
        params: Parameters or groups; a group may set "adapt" to False.
        lr: Learning rate.
        momentum: Of the scaled updates.
        weight_decay: Added to the gradient, times the weight.
        eta: Trust coefficient.

    Source:
        facebookresearch/barlowtwins main.py:222-253 at 8e8d284.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "adapt": True}
        super().__init__(params, defaults)
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Moves every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [(p, _like(p, p.grad), self._momentum(p)) for p in group["params"] if p.grad is not None]
            if moved:
                lists: Any = [list(tensors) for tensors in zip(*moved)]
                for (params, gradients, momenta), _ in self._group_tensors_by_device_and_dtype(lists).values():
                    self._move(group, params, gradients, momenta)  # type: ignore[arg-type] # none is None
        return loss

    def _move(
        self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor], momenta: list[Tensor]
    ) -> None:
        if group["adapt"] and all(map(_is_plain_on_cpu, params)):
            for tensors in zip(params, gradients, momenta):
                weights, of_gradient, of_momentum = (_pieces(tensor) for tensor in tensors)
                ratio = _trust_ratio(weights, of_gradient, group["weight_decay"], group["eta"])
                # By 1 - dampening the kernel multiplies the decayed gradient.
                self._fused_sgd(group, weights, of_gradient, of_momentum, group["weight_decay"], dampening=1 - ratio)
            return
        if group["weight_decay"] or group["adapt"]:
            gradients = list(torch._foreach_add(gradients, params, alpha=group["weight_decay"]))
        if group["adapt"]:
            ratios = _trust_ratios(params, gradients, group["eta"])
            torch._foreach_mul_(_local(gradients), ratios.unbind())
        self._fused_sgd(group, _local(params), _local(gradients), _local(momenta))

    def _fused_sgd(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        gradients: list[Tensor],
        momenta: list[Tensor],
        weight_decay: float = 0.0,
        dampening: float = 0.0,
    ) -> None:
        torch._fused_sgd_(
            params,
            gradients,
            momenta,
            weight_decay=weight_decay,
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=dampening,
            nesterov=False,
            maximize=False,
            is_first_step=False,
            found_inf=None if self.found_inf is None else self.found_inf.to(params[0].device, non_blocking=True),
        )

    def make_state(self) -> None:
        """Makes every parameter's momentum, so that the state has all its parts before the first step too."""
        for group in self.param_groups:
            for p in group["params"]:
                self._momentum(p)

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        # A state that was loaded may come from weights that lay otherwise.
        momentum = _like(p, state["momentum"]) if "momentum" in state else torch.zeros_like(p)
        state["momentum"] = momentum
        return momentum


def _like(p: Tensor, tensor: Tensor) -> Tensor:
    """The tensor as p lies in memory: torch's fused kernels pair numbers by that, and say nothing."""
    return tensor if tensor.stride() == p.stride() else torch.empty_like(p).copy_(tensor)


def _is_plain_on_cpu(p: Tensor) -> bool:
    is_plain = type(p.data) is Tensor and p.dtype in (torch.float32, torch.float64)
    return is_plain and p.is_cpu and _in_memory(p).is_contiguous()


def _in_memory(tensor: Tensor) -> Tensor:
    """With its axes in the order in which they lie in memory, if that is contiguous or channels_last."""
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 and not tensor.is_contiguous() else tensor


def _pieces(tensor: Tensor) -> list[Tensor]:
    """A tensor's numbers in the order of its memory, and there."""
    return list(_in_memory(tensor).view(-1).split(_PIECE))


def _trust_ratio(weights: list[Tensor], gradients: list[Tensor], weight_decay: float, eta: float) -> float:
    """Of one weight on a CPU, which waits for memory: it is read once, and nothing of its size is made."""
    room = torch.empty_like(weights[0])
    of_weight = of_update = 0.0
    for piece, of_gradient in zip(weights, gradients):
        update = torch.add(of_gradient, piece, alpha=weight_decay, out=room[: len(piece)])
        # Its norm takes torch four times as long.
        of_weight += torch.dot(piece, piece).item()
        of_update += torch.dot(update, update).item()
    return eta * math.sqrt(of_weight / of_update) if of_weight > 0 and of_update > 0 else 1.0


def _trust_ratios(params: list[Tensor], updates: list[Tensor], eta: float) -> Tensor:
    """(len(params),), of whole tensors where these are sharded; nobody waits for them."""
    p_norms, update_norms = _norms(params), _norms(updates)
    # A weight that is still zero, or has no gradient, moves unscaled.
    return torch.where((p_norms > 0) & (update_norms > 0), eta * p_norms / update_norms, 1.0)


def _norms(tensors: list[Tensor]) -> Tensor:
    norms = torch.stack(torch._foreach_norm(tensors))
    return norms.full_tensor() if isinstance(norms, DTensor) else norms


def _local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What of them lies on this rank."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
