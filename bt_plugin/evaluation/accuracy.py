"""Top-1 and top-5 accuracy, with confidence intervals."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bt_plugin.runs.accuracies import wilson
from bt_plugin.runtime import collectives


class Accuracy(NamedTuple):
    """The number of correctly classified images.

    Args:
        top1: Images whose class is ranked first.
        top5: Images whose class is among the first five.
        n: All images.
    """

    top1: int
    top5: int
    n: int

    @staticmethod
    def of(ranking: Tensor, targets: Tensor) -> Accuracy:
        """Count the correctly classified images.

        Args:
            ranking: (n, classes) int64, each image's classes, most likely first. Five columns are enough.
            targets: (n,) int64, the true classes.
        """
        hits = ranking[:, :5] == targets.unsqueeze(1)
        return Accuracy(int(hits[:, 0].sum()), int(hits.sum()), len(targets))

    def over_ranks(self) -> Accuracy:
        """Return the sum over all ranks, whose images must differ. Call it on every rank."""
        parts = torch.tensor(collectives.all_gather_objects(tuple(self)))
        return Accuracy(*parts.sum(dim=0).tolist())

    def report(self) -> dict[str, Any]:
        """Return top-1 and top-5 accuracy as fractions of 1, with their 95 % intervals and the number of images."""
        return {
            "top1": self.top1 / self.n,
            "top1_interval": wilson(self.top1, self.n),
            "top5": self.top5 / self.n,
            "top5_interval": wilson(self.top5, self.n),
            "images": self.n,
        }
