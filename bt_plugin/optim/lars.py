"""The optimizer LARS of the official code. It keeps no step count of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bt_plugin.optim.tensors import like, local, norms

# Numbers of a weight that the cores process at a time. In both passes a core then gets the same numbers, which are in
# its cache. With a second pass over whole weights a step takes 27 instead of 16 ms (two cores, ResNet-18, 3 x 2048).
_PIECE = 2**18


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (LARS) by the rule of the official code.

    The weight decay is added to the gradient: u = g + weight_decay * p. In a group with "adapt", u is multiplied by the
    trust ratio eta * |p| / |u|. The update therefore does not depend on the scale of the gradient. The ratio is 1 for
    a weight that is 0 or has no gradient. lightly.utils.lars.LARS divides by |g| + weight_decay * |p| instead, and
    does not adapt if the weight decay is 0.

    A few fused kernels update all parameters of a group. On a CPU, one kernel reads a weight and one updates it.

    If the attribute ``found_inf`` is set to a scalar float32 tensor, a step changes nothing if the tensor is 1. This is
    the protocol of GradScaler and torch's fused optimizers. The host does not need to read the tensor.

    Args:
        params: Parameters or parameter groups, such as those of parameter_groups. A group may set "adapt" to False.
            Its steps are then those of torch's SGD.
        lr: Learning rate, 0 or more.
        momentum: Momentum of the scaled updates, 0 or more, below 1.
        weight_decay: Factor of the weight that is added to its gradient, 0 or more.
        eta: Trust coefficient, above 0.

    Source:
        You et al. 2017, Large Batch Training of Convolutional Networks, https://arxiv.org/abs/1708.03888.
        facebookresearch/barlowtwins main.py:222-253 at 8e8d284.

    Examples:
        >>> model = torch.nn.Linear(8, 4)
        >>> optimizer = LARS(model.parameters(), lr=0.2, weight_decay=1.6e-5)
        >>> model(torch.randn(2, 8)).sum().backward()
        >>> optimizer.step()
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
        """Update every parameter that has a gradient.

        Args:
            closure: Function that recomputes and returns the loss, as for any torch optimizer.

        Returns:
            The loss of the closure, or None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [(p, like(p, p.grad), self._momentum(p)) for p in group["params"] if p.grad is not None]
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
                # The kernel multiplies the decayed gradient by 1 - dampening.
                self._fused_sgd(group, weights, of_gradient, of_momentum, group["weight_decay"], dampening=1 - ratio)
            return
        if not group["adapt"]:
            self._fused_sgd(group, local(params), local(gradients), local(momenta), group["weight_decay"])
            return
        gradients = list(torch._foreach_add(gradients, params, alpha=group["weight_decay"]))
        ratios = _trust_ratios(params, gradients, group["eta"])
        torch._foreach_mul_(local(gradients), ratios.unbind())
        self._fused_sgd(group, local(params), local(gradients), local(momenta))

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
        """Create the momentum of every parameter, so that the state is complete before the first step."""
        for group in self.param_groups:
            for p in group["params"]:
                self._momentum(p)

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        # A loaded state may come from weights with another memory layout.
        momentum = like(p, state["momentum"]) if "momentum" in state else torch.zeros_like(p)
        state["momentum"] = momentum
        return momentum


def _is_plain_on_cpu(p: Tensor) -> bool:
    is_plain = type(p.data) is Tensor and p.dtype in (torch.float32, torch.float64)
    return is_plain and p.is_cpu and _in_memory(p).is_contiguous()


def _in_memory(tensor: Tensor) -> Tensor:
    """Return the tensor with its axes in memory order, if its layout is contiguous or channels_last."""
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 and not tensor.is_contiguous() else tensor


def _pieces(tensor: Tensor) -> list[Tensor]:
    """Return views of a tensor's numbers in memory order."""
    return list(_in_memory(tensor).view(-1).split(_PIECE))


def _trust_ratio(weights: list[Tensor], gradients: list[Tensor], weight_decay: float, eta: float) -> float:
    """Return the trust ratio of one weight on a CPU.

    Memory limits the speed there. The weight is therefore read once, and no tensor of its size is created.
    """
    room = torch.empty_like(weights[0])
    of_weight = of_update = 0.0
    for piece, of_gradient in zip(weights, gradients):
        update = torch.add(of_gradient, piece, alpha=weight_decay, out=room[: len(piece)])
        # torch's norm takes four times as long as a dot product.
        of_weight += torch.dot(piece, piece).item()
        of_update += torch.dot(update, update).item()
    return eta * math.sqrt(of_weight / of_update) if of_weight > 0 and of_update > 0 else 1.0


def _trust_ratios(params: list[Tensor], updates: list[Tensor], eta: float) -> Tensor:
    """Return the trust ratios on the device, (len(params),). Those of sharded tensors are of the whole tensors."""
    p_norms, update_norms = norms(params), norms(updates)
    # A weight that is still zero, or has no gradient, is updated with a ratio of 1.
    return torch.where((p_norms > 0) & (update_norms > 0), eta * p_norms / update_norms, 1.0)
