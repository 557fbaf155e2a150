"""`python -m bt_plugin`, with views of NaN on rank $POISON_RANK in the steps $POISON_STEPS, counted from 1."""

from __future__ import annotations

import os
import sys
from itertools import count

import torch
from torch import Tensor

from bt_plugin.cli import main
from bt_plugin.training.step import TrainStep
from dali_pipelines.loaders import Batch


def poison() -> None:
    steps = count(1)
    poisoned = {int(step) for step in os.environ["POISON_STEPS"].split(",")}
    is_mine = os.environ.get("RANK", "0") == os.environ["POISON_RANK"]
    healthy = TrainStep._on_device

    def views(self: TrainStep, batch: Batch) -> tuple[Tensor, Tensor]:
        view_a, view_b = healthy(self, batch)
        return (torch.full_like(view_a, torch.nan), view_b) if next(steps) in poisoned and is_mine else (view_a, view_b)

    TrainStep._on_device = views  # type: ignore[method-assign]


if __name__ == "__main__":
    poison()
    sys.exit(main())
