"""Divide a model's parameters into named groups, each with its own base rate."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(
    model: nn.Module, *, lr_weights: float, lr_biases: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return two groups: "weights", which are adapted and decayed, and "biases" (with norms), which are neither.

    Each group has a "name", and keeps its rate as "base_lr", which the schedule scales.

    Source:
        Vectors count as biases: facebookresearch/barlowtwins main.py:98-104 at 8e8d284.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    weights = [p for p in parameters if p.ndim != 1]
    biases = [p for p in parameters if p.ndim == 1]
    of_weights = {"name": "weights", "base_lr": lr_weights, "lr": lr_weights, "weight_decay": weight_decay}
    of_biases = {"name": "biases", "base_lr": lr_biases, "lr": lr_biases, "weight_decay": 0.0}
    return [{"params": weights, "adapt": True, **of_weights}, {"params": biases, "adapt": False, **of_biases}]
