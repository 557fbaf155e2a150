"""Divide a model's parameters into named groups, each with its own base rate."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(
    model: nn.Module, *, lr_weights: float, lr_biases: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return two parameter groups for LARS: "weights" and "biases".

    The group "weights" has adaptive rates and weight decay. The group "biases" has neither. It contains all parameters
    of one dimension: biases, and the parameters of normalization layers. Frozen parameters are in no group.

    Args:
        model: Model whose parameters are divided.
        lr_weights: Base learning rate of the weights, 0 or more.
        lr_biases: Base learning rate of the biases, 0 or more.
        weight_decay: Weight decay of the weights, 0 or more.

    Returns:
        Groups with the keys "params", "name", "base_lr", "lr", "weight_decay" and "adapt". A schedule sets "lr" to
        "base_lr" times its factor (see lr_scale).

    Source:
        Vectors count as biases: facebookresearch/barlowtwins main.py:98-104 at 8e8d284.

    Examples:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        >>> groups = parameter_groups(model, lr_weights=0.2, lr_biases=0.0048, weight_decay=1.6e-5)
        >>> [(group["name"], len(group["params"])) for group in groups]
        [('weights', 1), ('biases', 3)]
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    weights = [p for p in parameters if p.ndim != 1]
    biases = [p for p in parameters if p.ndim == 1]
    of_weights = {"name": "weights", "base_lr": lr_weights, "lr": lr_weights, "weight_decay": weight_decay}
    of_biases = {"name": "biases", "base_lr": lr_biases, "lr": lr_biases, "weight_decay": 0.0}
    return [{"params": weights, "adapt": True, **of_weights}, {"params": biases, "adapt": False, **of_biases}]
