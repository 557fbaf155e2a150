"""Signs that a run learns nothing, told while it can still be stopped."""

from __future__ import annotations

import logging
from collections import deque
from statistics import fmean
from typing import Literal

logger = logging.getLogger(__name__)

# lambda_param x D of the recipes that are known to learn: 42 in the official code (D = 8192) and in Lightly, 10 in
# solo-learn's for CIFAR (D = 2048); 1 is "auto".
_USUAL_LAMBDA_D = (0.5, 200.0)
# An untrained ResNet's embeddings of two views correlate by 0.3 and more.
_LEAST_DIAGONAL_MEAN = 0.05
# Ten times what the standardisation adds to a variance, 1e-5, is 0.01 of a standard deviation.
_LEAST_EMBEDDING_STD = 0.01
_AVERAGED = 10


def warn_of_lambda(lambda_param: float | Literal["auto"], dim: int) -> None:
    """Says so where the two terms of the loss are far from their usual balance.

    Args:
        lambda_param: Of the loss.
        dim: D, of the embeddings.
    """
    low, high = _USUAL_LAMBDA_D
    if lambda_param != "auto" and not low <= lambda_param * dim <= high:
        logger.warning(
            "loss.lambda_param: %g times %d features is %.3g, and known recipes have %g to %g: the loss will see little"
            " but %s; see docs/loss.md",
            lambda_param,
            dim,
            lambda_param * dim,
            low,
            high,
            "agreement" if lambda_param * dim < low else "redundancy",
        )


class CollapseSigns:
    """Watches two numbers of the loss; warns once of each that falls too low, and again if it comes back and falls.

    Their averages over the last ten reports, because those of one small batch are noise.
    """

    def __init__(self) -> None:
        self._last: deque[tuple[float, float]] = deque(maxlen=_AVERAGED)
        self._told: set[str] = set()

    def watch(self, step: int, diagonal_mean: float, embedding_std: float) -> None:
        """To be called with the numbers of LossTerms."""
        self._last.append((diagonal_mean, embedding_std))
        if len(self._last) < _AVERAGED:
            return
        diagonal_mean, embedding_std = map(fmean, zip(*self._last))
        self._check(
            "diagonal_mean",
            diagonal_mean < _LEAST_DIAGONAL_MEAN,
            f"step {step}: the two views' embeddings do not correlate (mean of C_ii {diagonal_mean:.3f}); the views may"
            " be too strong, or optim.lr_weights too high",
        )
        self._check(
            "embedding_std",
            embedding_std < _LEAST_EMBEDDING_STD,
            f"step {step}: all embeddings are nearly the same (standard deviation {embedding_std:.2g}); look at the"
            " images, and at optim.weight_decay",
        )

    def _check(self, name: str, is_low: bool, message: str) -> None:
        if is_low and name not in self._told:
            logger.warning(message)
        (self._told.add if is_low else self._told.discard)(name)
