"""The objective between ranks: W ranks are one rank with the whole batch, and say so when they cannot be.

Each rank's data has its own mean and scale: identical data hides statistics that are taken by rank.
"""

from __future__ import annotations

from typing import NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bt_plugin import BarlowTwinsLoss
from bt_plugin.loss.cost_model import loss_cost
from bt_plugin.runtime.collectives import GATHER
from tests.bt_plugin.loss.loss_reference import FORMS, embeddings, paper_loss
from tests.ranks import run_ranks

PER_RANK = 6
# Of norms. A sum of the largest batch, 24 samples, rounds by 1e-6 in float32; the smallest mistake, the statistics of
# one rank, moves it by 1e-1.
RTOL = {torch.float32: 1e-5, torch.float64: 1e-10}
pytestmark = pytest.mark.distributed


class Result(NamedTuple):
    """The loss, the gradient of a model's weights after DDP's averaging, and of this rank's embeddings."""

    loss: Tensor
    weight_gradient: Tensor
    z_gradients: list[Tensor]


def global_batch(world_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    z = embeddings(PER_RANK * world_size, 10)
    rank = torch.arange(PER_RANK * world_size, dtype=torch.float64).div(PER_RANK, rounding_mode="floor").unsqueeze(1)
    z_a, z_b = (part * (1 + rank) + 20 * rank for part in z)
    return z_a.to(dtype), z_b.to(dtype)


def shard(rank: int, world_size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    z_a, z_b = global_batch(world_size, dtype)
    mine = slice(PER_RANK * rank, PER_RANK * (rank + 1))
    return z_a[mine], z_b[mine]


def result(model: nn.Module, views: tuple[Tensor, Tensor], form: str) -> Result:
    z = [model(view) for view in views]
    for part in z:
        part.retain_grad()
    loss = BarlowTwinsLoss(0.05, gather_distributed=True, form=form)(*z)
    loss.backward()
    (weight,) = model.parameters()
    return Result(loss.detach(), weight.grad, [part.grad for part in z])


def linear(dtype: torch.dtype) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(10, 7, bias=False, dtype=dtype)


def results_of_rank(rank: int, world_size: int) -> dict[tuple[torch.dtype, str], Result]:
    return {
        (dtype, form): result(DistributedDataParallel(linear(dtype)), shard(rank, world_size, dtype), form)
        for dtype in RTOL
        for form in FORMS
    }


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_are_one_rank_on_the_whole_batch(world_size: int) -> None:
    """Value, gradient of the embeddings, gradient of the parameters."""
    by_rank = run_ranks(world_size, results_of_rank, world_size)
    for (dtype, form), rtol in ((key, RTOL[key[0]]) for key in by_rank[0]):
        expected = result(linear(dtype), global_batch(world_size, dtype), form)
        for rank, ours in enumerate(results[dtype, form] for results in by_rank):
            torch.testing.assert_close(ours.loss, expected.loss, rtol=rtol, atol=0)
            assert_close_in_norm(ours.weight_gradient, expected.weight_gradient, rtol)
            for gradient, whole in zip(ours.z_gradients, expected.z_gradients):
                # DDP will divide by world_size what is summed over ranks.
                own = world_size * whole[PER_RANK * rank : PER_RANK * (rank + 1)]
                assert_close_in_norm(gradient, own, rtol)


def assert_close_in_norm(actual: Tensor, expected: Tensor, rtol: float) -> None:
    assert (actual - expected).norm() <= rtol * expected.norm()


def ungathered(rank: int) -> list[Tensor]:
    return [BarlowTwinsLoss(form=form)(*shard(rank, 2)) for form in FORMS]


def test_without_gathering_the_loss_is_this_ranks_own() -> None:
    for rank, losses in enumerate(run_ranks(2, ungathered)):
        for loss in losses:
            torch.testing.assert_close(loss, paper_loss(*shard(rank, 2), 5e-3))


def with_a_bad_rank(rank: int, bad: float) -> list[tuple[bool, list[bool]]]:
    z_a, z_b = shard(rank, 3)
    if rank == 1:
        z_a[2, 3] = bad
    terms = [BarlowTwinsLoss(gather_distributed=True, form=form).terms(z_a, z_b) for form in FORMS]
    return [(bool(term.loss.isfinite()), term.finite.tolist()) for term in terms]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_every_rank_hears_of_one_that_is_not_finite(bad: float) -> None:
    assert run_ranks(3, with_a_bad_rank, bad) == [[(False, [True, False, True])] * 2] * 3


def with_other_sizes(rank: int, sizes: list[int]) -> str:
    z_a, z_b = shard(rank, 2)
    try:
        BarlowTwinsLoss(gather_distributed=True)(z_a[: sizes[rank]], z_b[: sizes[rank]])
    except ValueError as error:
        return str(error)
    return ""


def test_ranks_of_different_batch_sizes_are_refused_on_each() -> None:
    for message in run_ranks(2, with_other_sizes, [6, 4]):
        assert "the ranks have 6, 4 samples" in message
        assert "drop_last=True" in message


def one_sample_each(rank: int) -> Tensor:
    z_a, z_b = shard(rank, 2)
    return BarlowTwinsLoss(0.05, gather_distributed=True)(z_a[:1], z_b[:1])


def test_one_sample_a_rank_is_a_batch() -> None:
    first = [torch.cat(parts) for parts in zip(*((part[:1] for part in shard(rank, 2)) for rank in range(2)))]
    for loss in run_ranks(2, one_sample_each):
        torch.testing.assert_close(loss, paper_loss(*first, 0.05))


def bytes_sent(rank: int, world_size: int) -> dict[str, tuple[float, int]]:
    """By form: bytes a step sends by ring algorithms, counted where torch is called, and calls in backward."""
    sent: list[float] = []
    all_reduce, gather = distributed.all_reduce, getattr(distributed, GATHER)

    def count_all_reduce(tensor: Tensor) -> None:
        sent.append(2 * (world_size - 1) / world_size * tensor.nbytes)
        all_reduce(tensor)

    def count_gather(output: Tensor, tensor: Tensor) -> None:
        sent.append((world_size - 1) * tensor.nbytes)
        gather(output, tensor)

    counts = {}
    with mock.patch.multiple(distributed, **{"all_reduce": count_all_reduce, GATHER: count_gather}):
        for form in FORMS:
            sent.clear()
            z = [part.requires_grad_() for part in shard(rank, world_size, torch.float32)]
            loss = BarlowTwinsLoss(gather_distributed=True, form=form)(*z)
            in_forward = len(sent)
            loss.backward()
            counts[form] = sum(sent), len(sent) - in_forward
    return counts


@pytest.mark.parametrize("world_size", [2, 3])
def test_bytes_between_ranks_are_those_of_the_cost_model(world_size: int) -> None:
    for counts in run_ranks(world_size, bytes_sent, world_size):
        for form, (counted, calls_in_backward) in counts.items():
            assert counted == pytest.approx(loss_cost(form, n=PER_RANK, d=10, world_size=world_size).bytes_sent)
            assert calls_in_backward == 0
