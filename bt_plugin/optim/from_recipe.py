"""Build the optimizer of a recipe, create its state, and find out how it skips a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bt_plugin.config.optim import Optim
from bt_plugin.optim.lars import LARS
from bt_plugin.optim.parameter_groups import parameter_groups

OptimizerFactory = Callable[[Optim, nn.Module], torch.optim.Optimizer]


def build_optimizer(optim: Optim, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a recipe. To train with another one, pass another function to TrainStep.

    The training step expects three things of an optimizer:

    1. **Named groups with a base rate.** Each parameter group has a "name" and a "base_lr". The step sets its "lr" to
       base_lr times the schedule's factor. The log has a rate ``lr_NAME`` for each group.
    2. **found_inf, if the optimizer supports it.** If the optimizer has the attribute ``found_inf``, the step sets it
       to a float32 scalar on the device. ``step()`` must change nothing if the scalar is 1. torch's fused optimizers
       do this; set ``found_inf = None`` on them to create the attribute. For any other optimizer the host reads the
       scalar and skips ``step()``. This costs one synchronization with the device per step.
    3. **State before the first checkpoint.** See make_state.

    Args:
        optim: Section ``optim`` of the recipe.
        model: Model whose parameters the optimizer updates.

    Returns:
        LARS with the groups of parameter_groups. Their base rates are multiplied by global_batch_size / 256.

    Source:
        facebookresearch/barlowtwins main.py:160-173 at 8e8d284.

    Examples:
        >>> optimizer = build_optimizer(recipe.optim, model)
        >>> [group["name"] for group in optimizer.param_groups]
        ['weights', 'biases']
    """
    return LARS(build_groups(optim, model), lr=0.0, momentum=optim.momentum, eta=optim.eta)


def build_groups(optim: Optim, model: nn.Module) -> list[dict[str, Any]]:
    """Return the parameter groups of a recipe's optimizer. See build_optimizer."""
    scale = optim.global_batch_size / 256
    return parameter_groups(
        model, lr_weights=optim.lr_weights * scale, lr_biases=optim.lr_biases * scale, weight_decay=optim.weight_decay
    )


def takes_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer reads ``found_inf`` on the device."""
    return hasattr(optimizer, "found_inf")


def make_state(optimizer: torch.optim.Optimizer) -> None:
    """Create the optimizer's state of every parameter, as it is before the first step.

    A checkpoint is restored into an existing state, and torch creates the state only in the first step.

    If the optimizer has a method ``make_state``, this function calls it. Otherwise it makes one step with gradients
    and learning rates of 0, and then sets all tensors of the state to 0. This is the initial state of torch's SGD,
    Adam and AdamW.

    Args:
        optimizer: Optimizer that has not stepped yet. All gradients of its parameters are removed.
    """
    own = getattr(optimizer, "make_state", None)
    if own is not None:
        own()
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()
