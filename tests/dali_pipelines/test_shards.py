"""Exactly once, for any number of images, ranks and any batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipelines.orders import Order
from dali_pipelines.shards import Shards, eval_indices


def shards(n: int, batch_size: int, rank: int = 0, world_size: int = 1, seed: int = 0) -> Shards:
    return Shards(Order([(n, 1.0)], seed), batch_size, rank, world_size)


@given(st.integers(1, 8), st.integers(1, 9), st.integers(0, 80), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_sees_every_image_once_but_the_last_incomplete_batch(
    world_size: int, batch_size: int, surplus: int, seed: int, epoch: int
) -> None:
    n = world_size * batch_size + surplus
    ranks = [shards(n, batch_size, rank, world_size, seed) for rank in range(world_size)]
    assert len({rank.steps_per_epoch for rank in ranks}) == 1
    seen = [rank.indices(epoch, step) for rank in ranks for step in range(rank.steps_per_epoch)]
    assert all(len(batch) == batch_size for batch in seen)
    together = np.concatenate(seen)
    assert len(set(together.tolist())) == len(together), "no image twice"
    assert n - len(together) < world_size * batch_size, "only an incomplete global batch is dropped"


@given(st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 3))
def test_the_global_batch_of_a_step_is_the_same_on_any_number_of_ranks(world_size: int, step: int) -> None:
    batch = [shards(50, 12 // world_size, rank, world_size).indices(2, step) for rank in range(world_size)]
    np.testing.assert_array_equal(np.concatenate(batch), shards(50, 12).indices(2, step))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [shards(1000, 1000, seed=seed).indices(epoch, 0) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for first in range(3):
        for second in range(first):
            assert np.mean(orders[first] == orders[second]) < 0.01


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 8))
def test_evaluation_sees_every_image_exactly_once(n: int, batch_size: int, world_size: int) -> None:
    batches = [
        batch
        for rank in range(world_size)
        for batch in eval_indices(n, batch_size=batch_size, rank=rank, world_size=world_size)
    ]
    seen = np.concatenate(batches) if batches else np.array([])
    assert sorted(seen.tolist()) == list(range(n))
    assert all(0 < len(batch) <= batch_size for batch in batches)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((10, 4, 0, 3), "10 images do not fill one global batch of 12"),
        ((10, 0), "batch_size_per_rank: 0"),
        ((10, 2, 2, 2), "rank: 2"),
        ((10, 2, 0, 1, -1), "seed: -1"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[int, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        shards(*arguments)
