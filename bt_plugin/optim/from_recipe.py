"""Build the optimizer of a recipe, create its state, and find out how it skips a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bt_plugin.config.optim import Optim
from bt_plugin.optim.adamw import build_adamw
from bt_plugin.optim.lars import LARS
from bt_plugin.optim.layer_groups import layer_groups
from bt_plugin.optim.parameter_groups import parameter_groups

OptimizerFactory = Callable[[Optim, nn.Module], torch.optim.Optimizer]
# What each optimizer stores for each weight, in copies of the weight.
STATES = {"lars": 1, "adamw": 2, "sgd": 1}


def build_optimizer(optim: Optim, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a recipe. To train with another one, pass another function to TrainStep.

    The training step expects three things of an optimizer:

    1. **Groups with a base rate.** Each parameter group has a "base_lr". The step sets its "lr" to base_lr times the
       schedule's factor. If the group has a "name", the log has a rate ``lr_NAME``.
    2. **found_inf, if the optimizer supports it.** If the optimizer has the attribute ``found_inf``, the step sets it
       to a float32 scalar on the device. ``step()`` must change nothing if the scalar is 1. torch's fused optimizers
       do this; set ``found_inf = None`` on them to create the attribute. For any other optimizer the host reads the
       scalar and skips ``step()``. This costs one synchronization with the device per step.
    3. **State before the first checkpoint.** See make_state.

    Args:
        optim: Section ``optim`` of the recipe.
        model: Model whose parameters the optimizer updates.

    Returns:
        LARS with the groups of parameter_groups, or AdamW or SGD with those of layer_groups. All base rates are
        multiplied by global_batch_size / 256.

    Raises:
        RecipeError: If optim.layer_decay or optim.patch_embed_lr_scale is not possible for this model.

    Source:
        facebookresearch/barlowtwins main.py:160-173 at 8e8d284.

    Examples:
        >>> optimizer = build_optimizer(recipe.optim, model)
        >>> [group["name"] for group in optimizer.param_groups]
        ['weights', 'biases']
    """
    groups = build_groups(optim, model)
    if optim.name == "adamw":
        return build_adamw(groups, betas=(optim.betas[0], optim.betas[1]))
    if optim.name == "sgd":
        # torch's own SGD cannot update shards with its fused kernel. LARS is that kernel if it does not adapt.
        return LARS([{**group, "adapt": False} for group in groups], lr=0.0, momentum=optim.momentum)
    return LARS(groups, lr=0.0, momentum=optim.momentum, eta=optim.eta)


def build_groups(optim: Optim, model: nn.Module) -> list[dict[str, Any]]:
    """Return the parameter groups of a recipe's optimizer. See build_optimizer."""
    scale = optim.global_batch_size / 256
    if optim.name == "lars":
        lr_weights, lr_biases = optim.lr_weights * scale, optim.lr_biases * scale
        return parameter_groups(model, lr_weights=lr_weights, lr_biases=lr_biases, weight_decay=optim.weight_decay)
    assert optim.lr is not None, "these optimizers have a default rate"
    return layer_groups(
        model,
        lr=optim.lr * scale,
        weight_decay=optim.weight_decay,
        layer_decay=optim.layer_decay,
        patch_embed_lr_scale=optim.patch_embed_lr_scale,
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
