"""The cross-correlation matrix of two views' embeddings, looked at."""

from __future__ import annotations

import torch
from torch import Tensor

from bt_plugin.loss.barlow_twins import EPS


def cross_correlation(z_a: Tensor, z_b: Tensor) -> Tensor:
    """C, as the loss takes it.

    Shape:
        - z_a, z_b: (N, D), of all ranks.
        - Output: (D, D) float32; row i is feature i of the first views.
    """
    a, b = ((z - z.mean(dim=0)) / (z.var(dim=0, unbiased=False) + EPS).sqrt() for z in (z_a.float(), z_b.float()))
    return a.T @ b / len(a)


def correlation_report(c: Tensor) -> dict[str, float]:
    """Mean and standard deviation of the diagonal, 1 and 0 at the objective's end, and of the rest, 0 and 0."""
    diagonal = c.diagonal()
    rest = c[~torch.eye(len(c), dtype=torch.bool, device=c.device)]
    return {
        "diagonal_mean": float(diagonal.mean()),
        "diagonal_std": float(diagonal.std(unbiased=False)),
        "off_diagonal_mean": float(rest.mean()) if len(rest) else 0.0,
        "off_diagonal_std": float(rest.std(unbiased=False)) if len(rest) else 0.0,
    }
