"""The order of epochs: how often each image is seen, and when it is needed again."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipelines.orders import Order

PARTS = st.lists(st.tuples(st.integers(1, 20), st.sampled_from([0.1, 0.5, 1.0, 1.5, 3.0])), min_size=1, max_size=3)


def groups_of(n: int, size: int) -> np.ndarray:
    return np.arange(0, n, size, dtype=np.int64)


def test_one_part_is_numpys_permutation_of_seed_and_epoch() -> None:
    np.testing.assert_array_equal(Order([(50, 1.0)], 3).epoch(2), np.random.default_rng((3, 2)).permutation(50))


@given(PARTS, st.integers(0, 3), st.integers(1, 6), st.sampled_from([None, 1, 7, 1000]))
def test_each_image_is_seen_as_often_as_its_weight_says(
    parts: list[tuple[int, float]], seed: int, epochs: int, window: int | None
) -> None:
    order = Order(parts, seed, groups=groups_of(sum(size for size, _ in parts), 4), window=window)
    seen = Counter(np.concatenate([order.epoch(epoch) for epoch in range(epochs)]).tolist())
    first = 0
    for size, weight in parts:
        each = epochs * round(size * weight) / size
        assert {seen[image] for image in range(first, first + size)} <= {math.floor(each), math.ceil(each)}
        first += size
    assert sum(seen.values()) == epochs * len(order)


@given(PARTS, st.sampled_from([None, 5]), st.integers(0, 3))
def test_the_next_use_is_the_next_place_in_the_order_of_all_epochs(
    parts: list[tuple[int, float]], window: int | None, epoch: int
) -> None:
    order = Order(parts, 1, groups=groups_of(sum(size for size, _ in parts), 3), window=window)
    count = len(order)
    two = np.concatenate([order.epoch(epoch), order.epoch(epoch + 1)]).tolist()
    for place, (image, use) in enumerate(zip(two[:count], order.next_use(epoch).tolist())):
        later = [other for other in range(place + 1, 2 * count) if two[other] == image]
        assert use == epoch * count + (later[0] if later else 2 * count)


def test_the_images_of_a_group_stay_within_two_windows() -> None:
    order = Order([(1000, 1.0)], groups=groups_of(1000, 10), window=50).epoch(0)
    for group in range(100):
        windows = {place // 50 for place, image in enumerate(order.tolist()) if image // 10 == group}
        assert len(windows) == 1, "windows of whole groups split no group"
    assert np.mean(np.diff(order) == 1) < 0.1, "windows are shuffled"
    firsts = order[::50] // 10
    assert np.any(np.diff(firsts) < 0), "so are groups"


def test_what_the_order_depends_on_is_told() -> None:
    groups = groups_of(30, 5)
    assert Order([(30, 1.0)]).identity == Order([(10, 1.0), (20, 1.0)]).identity == {}
    assert Order([(10, 1.0), (20, 0.5)]).identity == {"weights": [1.0, 0.5]}
    assert Order([(30, 1.0)], groups=groups, window=7).identity == {"window": 7}


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="seed: -1 is not allowed"):
        Order([(10, 1.0)], -1)
