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
