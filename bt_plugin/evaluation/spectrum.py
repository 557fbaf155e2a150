"""Measure how many dimensions features use, without labels."""

from __future__ import annotations

import torch
from torch import Tensor

# The epsilon of the RankMe paper: the logarithm of 0 is not finite.
_EPS = 1e-7


def singular_values(embeddings: Tensor) -> Tensor:
    """Return the singular values of embeddings.

    Shape:
        - embeddings: (N, D) floating point, the samples of all ranks.
        - Output: (min(N, D),) float32, in descending order.
    """
    values: Tensor = torch.linalg.svdvals(embeddings.float())
    return values


def rankme(spectrum: Tensor) -> float:
    """Return RankMe: the exponential of the entropy of the singular values of embeddings, 1 to min(N, D).

    Args:
        spectrum: Singular values, as singular_values returns them.

    Source:
        Garrido et al. 2023, RankMe, https://arxiv.org/abs/2210.02885, equation 1.
    """
    shares = spectrum / spectrum.sum().clamp(min=_EPS) + _EPS
    return float(torch.exp(-(shares * shares.log()).sum()))


def effective_rank(features: Tensor) -> float:
    """Return RankMe of centered features. A common offset, which RankMe counts as the largest direction, has no effect.

    Args:
        features: (N, F) floating point, the samples of all ranks.

    Source:
        Roy and Vetterli 2007, The effective rank: a measure of effective dimensionality.
    """
    return rankme(singular_values(features - features.mean(dim=0)))


def lidar(embeddings: Tensor, *, delta: float = 1e-4) -> float:
    """Return LiDAR, the number of directions that tell images apart in spite of their views: 1 to min(n - 1, D).

    Each image is a class, and its views are the samples of the class. With the covariance of the classes' means
    (between) and the mean covariance of the views of a class (within), the result is the exponential of the entropy of
    the eigenvalues of within^-1/2 between within^-1/2. It is 1 for constant embeddings.

    Args:
        embeddings: Embeddings of q views of n images, of all ranks. If D is larger than n, only their n principal
            components are used, because the covariance within is known from n (q - 1) differences only.
        delta: Multiple of the identity that is added to the covariance within, above 0, in units of the mean variance
            of an embedding's feature. So the scale of the embeddings, which the loss does not see, has no effect.

    Shape:
        - embeddings: (n, q, D) floating point, n and q 2 or more.

    Source:
        Thilak et al. 2023, LiDAR, https://arxiv.org/abs/2312.04000, as others describe it; its own text was not
        compared. The epsilon, which only keeps the logarithm of 0 finite, is left out. 1e-4 is the delta of
        stable-pretraining.
    """
    images, views, features = embeddings.shape
    z = embeddings.double().flatten(end_dim=1)
    z = z - z.mean(dim=0)
    z = z / z.square().mean().sqrt().clamp(min=_EPS)
    if features > images:
        z = _principal_components(z, images)
    z = z.unflatten(0, (images, views))
    means = z.mean(dim=1)
    around = (z - means[:, None]).flatten(end_dim=1)
    within = around.T @ around / len(around) + delta * torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    # The Cholesky factor is another square root than the symmetric one. The eigenvalues are the same.
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), means.T, upper=False)
    eigenvalues = torch.linalg.svdvals(whitened).square()
    shares = eigenvalues / eigenvalues.sum().clamp(min=torch.finfo(z.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())


def _principal_components(z: Tensor, count: int) -> Tensor:
    """Return the coordinates of centered samples, (N, D), in their directions of largest variance, (N, count)."""
    is_tall = z.shape[1] <= len(z)
    squares, vectors = torch.linalg.eigh(z.T @ z if is_tall else z @ z.T)
    largest: Tensor = vectors[:, -count:]
    return z @ largest if is_tall else largest * squares[-count:].clamp(min=0).sqrt()
