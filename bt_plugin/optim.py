"""The optimizer and the schedule of the official code, and nothing that keeps a count of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017), by the rule of the official code.

    A group that adapts scales decayed gradients g + wd * p by eta * |p| / |g + wd * p|, so that its
    weights do not feel the gradient's scale. lightly.utils.lars.LARS divides by |g| + wd * |p|
    instead, and does not adapt at all where the weight decay is 0.

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
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Moves every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad.add(p, alpha=group["weight_decay"])
                if group["adapt"]:
                    update.mul_(_trust_ratio(p, update, group["eta"]))
                momentum = self._momentum(p).mul_(group["momentum"]).add_(update)
                p.sub_(momentum, alpha=group["lr"])
        return loss

    def make_state(self) -> None:
        """Makes every parameter's momentum, so that the state has all its parts before the first step too."""
        for group in self.param_groups:
            for p in group["params"]:
                self._momentum(p)

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        momentum: Tensor = state["momentum"]
        return momentum


def _trust_ratio(p: Tensor, update: Tensor, eta: float) -> Tensor:
    p_norm, update_norm = torch.linalg.vector_norm(p), torch.linalg.vector_norm(update)
    # A weight that is still zero, or has no gradient, moves unscaled.
    return torch.where((p_norm > 0) & (update_norm > 0), eta * p_norm / update_norm, 1.0)


def parameter_groups(
    model: nn.Module, lr_weights: float, lr_biases: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Weights, which are adapted and decayed, and biases and norms, which are neither.

    Each group keeps its rate as "base_lr", which the schedule scales.

    Source:
        Vectors count as biases: facebookresearch/barlowtwins main.py:98-104 at 8e8d284.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    weights = [p for p in parameters if p.ndim != 1]
    biases = [p for p in parameters if p.ndim == 1]
    return [
        {"params": weights, "base_lr": lr_weights, "lr": lr_weights, "weight_decay": weight_decay, "adapt": True},
        {"params": biases, "base_lr": lr_biases, "lr": lr_biases, "weight_decay": 0.0, "adapt": False},
    ]


def lr_scale(step: int, total_steps: int, warmup_steps: int, final: float = 0.001) -> float:
    """The factor of the base rates at a step: linear from 0 to 1, then a cosine down to `final`.

    Args:
        step: Steps already done, 0 to total_steps - 1.
        total_steps: Of the whole run.
        warmup_steps: Of the linear part, fewer than total_steps.
        final: Reached at total_steps.

    Source:
        facebookresearch/barlowtwins main.py:160-173 at 8e8d284.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
