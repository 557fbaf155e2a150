"""Compute and summarize the cross-correlation matrix of the embeddings of two views."""

from __future__ import annotations

import torch
from torch import Tensor

from bt_plugin.loss.barlow_twins import EPS


def cross_correlation(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the cross-correlation matrix C, computed as in the loss.

    Args:
        z_a: Embeddings of the first views.
        z_b: Embeddings of the second views, in the same order.

    Shape:
        - z_a, z_b: (N, D) floating point, the samples of all ranks.
        - Output: (D, D) float32. Row i is feature i of the first views.
    """
    a, b = ((z - z.mean(dim=0)) / (z.var(dim=0, unbiased=False) + EPS).sqrt() for z in (z_a.float(), z_b.float()))
    return a.T @ b / len(a)


def correlation_report(c: Tensor) -> dict[str, float]:
    """Return mean and standard deviation of the diagonal and of the other elements of C.

    At the minimum of the loss the diagonal has mean 1 and deviation 0, and the other elements have mean 0 and
    deviation 0.

    Args:
        c: (D, D) float, the cross-correlation matrix.
    """
    diagonal = c.diagonal()
    rest = c[~torch.eye(len(c), dtype=torch.bool, device=c.device)]
    return {
        "diagonal_mean": float(diagonal.mean()),
        "diagonal_std": float(diagonal.std(unbiased=False)),
        "off_diagonal_mean": float(rest.mean()) if len(rest) else 0.0,
        "off_diagonal_std": float(rest.std(unbiased=False)) if len(rest) else 0.0,
    }
