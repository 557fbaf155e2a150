"""How many dimensions features use, told without labels."""

from __future__ import annotations

import torch
from torch import Tensor

# Of the paper: a zero singular value has no logarithm.
_EPS = 1e-7


def singular_values(embeddings: Tensor) -> Tensor:
    """The spectrum, falling.

    Shape:
        - embeddings: (n, D) floating point, of all ranks.
        - Output: (min(n, D),) float32.
    """
    values: Tensor = torch.linalg.svdvals(embeddings.float())
    return values


def rankme(spectrum: Tensor) -> float:
    """RankMe: the exponential of the entropy of the singular values of embeddings, 1 to min(n, D).

    Args:
        spectrum: As singular_values gives it.

    Source:
        Garrido et al. 2023, RankMe, https://arxiv.org/abs/2210.02885, equation 1.
    """
    shares = spectrum / spectrum.sum().clamp(min=_EPS) + _EPS
    return float(torch.exp(-(shares * shares.log()).sum()))


def effective_rank(features: Tensor) -> float:
    """RankMe of centred features: a common offset, which RankMe counts as the largest direction, counts for nothing.

    Source:
        Roy and Vetterli 2007, The effective rank: a measure of effective dimensionality.
    """
    return rankme(singular_values(features - features.mean(dim=0)))
