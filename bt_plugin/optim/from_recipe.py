"""The one door for an optimizer: build it, make its state, and know how it skips a step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bt_plugin.config.recipe import Optim
from bt_plugin.optim.lars import LARS
from bt_plugin.optim.parameter_groups import parameter_groups


def build_optimizer(optim: Optim, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a recipe. To train with another one, pass another function to TrainStep.

    The training step expects three things of an optimizer:

    1. **Named groups with a base rate.** Each parameter group has a "name" and a "base_lr". The step sets its "lr" to
       base_lr times the schedule's factor, and the log has a rate ``lr_NAME`` for each group.
    2. **found_inf, if it can.** Before each step, the attribute ``found_inf`` of an optimizer that has it is set to a
       float32 scalar on the device. Where the scalar is 1, ``step()`` must change nothing. torch's fused optimizers
       work so; set ``found_inf = None`` on them. For any other optimizer the host reads the scalar and skips
       ``step()``, which costs one wait a step.
    3. **State before the first checkpoint.** See make_state.

    Args:
        optim: The recipe's section.
        model: Whose parameters it moves.
    """
    # The rates grow with the batch as in facebookresearch/barlowtwins main.py:160-173 at 8e8d284.
    scale = optim.global_batch_size / 256
    groups = parameter_groups(
        model, lr_weights=optim.lr_weights * scale, lr_biases=optim.lr_biases * scale, weight_decay=optim.weight_decay
    )
    return LARS(groups, lr=0.0, momentum=optim.momentum, eta=optim.eta)


def takes_found_inf(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer reads ``found_inf`` on the device."""
    return hasattr(optimizer, "found_inf")


def make_state(optimizer: torch.optim.Optimizer) -> None:
    """Make the state of every parameter as it is before the first step.

    A checkpoint is restored into a state that exists, and torch makes a missing one by a step, which counts. An
    optimizer with a method ``make_state`` does it itself. Of any other one, a step without gradient and rate makes the
    state, and all its tensors are set to 0, which is where torch's SGD, Adam and AdamW begin.
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
