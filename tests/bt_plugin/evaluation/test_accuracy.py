from __future__ import annotations

import pytest
import torch

from bt_plugin.evaluation.accuracy import Accuracy
from tests.ranks import run_ranks


def test_hits_among_the_first_and_the_first_five() -> None:
    ranking = torch.tensor([[3, 1, 2, 0, 4, 5], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]])
    assert Accuracy.of(ranking, torch.tensor([3, 5, 1])) == Accuracy(top1=1, top5=2, n=3)
    assert Accuracy.of(ranking[:, :2], torch.tensor([3, 1, 1])) == Accuracy(1, 2, 3), "fewer classes than five"


def counted(rank: int) -> Accuracy:
    return Accuracy(1 + rank, 2 + rank, 3 + rank).over_ranks()


@pytest.mark.distributed
def test_ranks_add_up() -> None:
    assert run_ranks(2, counted) == [Accuracy(3, 5, 7)] * 2
