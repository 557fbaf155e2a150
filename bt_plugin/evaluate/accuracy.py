"""Top-1 and top-5, and how sure they are."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bt_plugin.runtime import collectives

# Of the normal distribution, both sides: 95 %.
_Z = 1.959964


class Accuracy(NamedTuple):
    """How many of n images have their class first, and among the first five."""

    top1: int
    top5: int
    n: int

    @staticmethod
    def of(ranking: Tensor, targets: Tensor) -> Accuracy:
        """Counts.

        Args:
            ranking: (n, classes), each image's classes, the best first; five columns are enough.
            targets: (n,), the true classes.
        """
        hits = ranking[:, :5] == targets.unsqueeze(1)
        return Accuracy(int(hits[:, 0].sum()), int(hits.sum()), len(targets))

    def over_ranks(self) -> Accuracy:
        """The sum over ranks, each of which has images of its own. To be called on every rank."""
        parts = torch.tensor(collectives.all_gather_objects(tuple(self)))
        return Accuracy(*parts.sum(dim=0).tolist())

    def report(self) -> dict[str, Any]:
        """Fractions of 1, with their 95 % intervals."""
        return {
            "top1": self.top1 / self.n,
            "top1_interval": wilson(self.top1, self.n),
            "top5": self.top5 / self.n,
            "top5_interval": wilson(self.top5, self.n),
            "images": self.n,
        }


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a fraction, over the choice of the images and nothing else.

    Source:
        Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.
    """
    share = hits / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)
