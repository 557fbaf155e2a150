"""Warn during a run of signs that it learns nothing, while it can still be stopped."""

from __future__ import annotations

import logging
from collections import deque
from statistics import fmean
from typing import Literal

logger = logging.getLogger(__name__)

# lambda_param x D of recipes that are known to learn: 42 in the official code (D = 8192) and in Lightly, and 10 in
# solo-learn's recipe for CIFAR (D = 2048). "auto" is 1.
_USUAL_LAMBDA_D = (0.5, 200.0)
# Even an untrained ResNet's embeddings of two views correlate by 0.3 or more.
_LEAST_DIAGONAL_MEAN = 0.05
# Standardization adds 1e-5 to a variance. Ten times as much is a standard deviation of 0.01.
_LEAST_EMBEDDING_STD = 0.01
_AVERAGED = 10


def warn_of_lambda(lambda_param: float | Literal["auto"], dim: int) -> None:
    """Log a warning if the two terms of the loss are far from their usual balance.

    Args:
        lambda_param: Weight of the redundancy term.
        dim: Dimension D of the embeddings.
    """
    low, high = _USUAL_LAMBDA_D
    if lambda_param != "auto" and not low <= lambda_param * dim <= high:
        logger.warning(
            "loss.lambda_param: %g times %d features is %.3g, but known recipes have %g to %g. The %s term will"
            " dominate the loss. See docs/loss.md",
            lambda_param,
            dim,
            lambda_param * dim,
            low,
            high,
            "invariance" if lambda_param * dim < low else "redundancy",
        )


class CollapseSigns:
    """A watch on two metrics of the loss. It warns once if a metric falls too low, and again after a recovery.

    It averages over the last ten reports, because the metrics of one small batch are noisy.

    Args:
        rate_keys: Names of the recipe's keys of the base learning rates, which a warning may advise to lower.
    """

    def __init__(self, rate_keys: str) -> None:
        self._rate_keys = rate_keys
        self._last: deque[tuple[float, float]] = deque(maxlen=_AVERAGED)
        self._told: set[str] = set()

    def watch(self, step: int, diagonal_mean: float, embedding_std: float) -> None:
        """Check the metrics of a report.

        Args:
            step: Step of the report.
            diagonal_mean: Mean of C_ii, from LossTerms.
            embedding_std: Mean standard deviation of the features, from LossTerms.
        """
        self._last.append((diagonal_mean, embedding_std))
        if len(self._last) < _AVERAGED:
            return
        diagonal_mean, embedding_std = map(fmean, zip(*self._last))
        self._check(
            "diagonal_mean",
            diagonal_mean < _LEAST_DIAGONAL_MEAN,
            f"step {step}: the embeddings of the two views do not correlate (mean of C_ii {diagonal_mean:.3f}). The"
            f" views may be too strong, or {self._rate_keys} too high",
        )
        self._check(
            "embedding_std",
            embedding_std < _LEAST_EMBEDDING_STD,
            f"step {step}: all embeddings are nearly the same (standard deviation {embedding_std:.2g}). Check the"
            " images with bt-plugin preview, and lower optim.weight_decay",
        )

    def _check(self, name: str, is_low: bool, message: str) -> None:
        if is_low and name not in self._told:
            logger.warning(message)
        (self._told.add if is_low else self._told.discard)(name)
