"""The objective as the paper writes it, and embeddings to try it on."""

from __future__ import annotations

import torch
from torch import Tensor

FORMS = ("cross", "gram")


def paper_loss(z_a: Tensor, z_b: Tensor, lambda_param: float) -> Tensor:
    """Equation 1 and 2 of the paper, element by element, with BatchNorm's epsilon."""

    def standardise(z: Tensor) -> Tensor:
        centred = z - z.mean(0)
        return centred / (centred.square().mean(0) + 1e-5).sqrt()

    c = standardise(z_a).T @ standardise(z_b) / len(z_a)
    total = torch.zeros((), dtype=z_a.dtype)
    for i in range(len(c)):
        for j in range(len(c)):
            total = total + ((1 - c[i, j]) ** 2 if i == j else lambda_param * c[i, j] ** 2)
    return total


def cancelled(z: Tensor) -> Tensor:
    """Return how many times larger than its deviation each feature is before its mean is subtracted, shape (D,).

    The rounding error of the mean stays, so that what is standardized is less exact by this factor.
    """
    return 1 + z.detach().mean(0).abs() / z.detach().std(0)


def embeddings(n: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two views that share much, with a mean and a scale of their own in every feature."""
    generator = torch.Generator().manual_seed(n * 1000 + d)
    shared = torch.randn(n, d, generator=generator, dtype=torch.float64)
    z_a = shared + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    z_b = shared + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.1, 30, d, dtype=torch.float64)
    return (z_a * scale + 5).to(dtype), (z_b * scale - 3).to(dtype)
