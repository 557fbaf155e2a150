"""What a cache gives up: never worse than any other choice, compared with all of them."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipelines.storage.eviction import UNKNOWN, Planned


def next_uses(uses: list[int]) -> list[int]:
    return [next((later for later in range(now + 1, len(uses)) if uses[later] == item), UNKNOWN) for now, item in
            enumerate(uses)]  # fmt: skip


def fetched_by_plan(uses: list[int], size_of: dict[int, int], most_bytes: int) -> int:
    cache, fetched = Planned(most_bytes), 0
    for item, then in zip(uses, next_uses(uses)):
        key = bytes([item])
        if key in cache:
            cache.plan(key, then)
            continue
        fetched += size_of[item]
        if cache.room(size_of[item], then) is not None:
            cache.add(key, size_of[item], then)
        assert cache.held_bytes <= most_bytes
    return fetched


def fetched_by_lru(uses: list[int], size_of: dict[int, int], most_bytes: int) -> int:
    cache: OrderedDict[int, int] = OrderedDict()
    fetched = 0
    for item in uses:
        if item in cache:
            cache.move_to_end(item)
            continue
        fetched += size_of[item]
        while cache and sum(cache.values()) + size_of[item] > most_bytes:
            cache.popitem(last=False)
        if size_of[item] <= most_bytes:
            cache[item] = size_of[item]
    return fetched


def fewest(uses: list[int], places: int) -> int:
    """The smallest number of fetches with any choice, by trying all of them."""

    @cache
    def after(now: int, held: frozenset[int]) -> int:
        if now == len(uses):
            return 0
        if uses[now] in held:
            return after(now + 1, held)
        all_of_them = sorted(held | {uses[now]})
        kept = (
            [all_of_them] if len(all_of_them) <= places else [list(each) for each in combinations(all_of_them, places)]
        )
        return 1 + min(after(now + 1, frozenset(each)) for each in kept)

    return after(0, frozenset())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=14), st.integers(1, 4))
def test_no_other_choice_fetches_less(uses: list[int], places: int) -> None:
    found = fetched_by_plan(uses, dict.fromkeys(range(6), 1), places)
    assert found == fewest(uses, places)


def test_epochs_of_images_fetch_far_less_than_by_lru() -> None:
    random = np.random.default_rng(0)
    size_of = {item: int(size) for item, size in enumerate(random.integers(50, 150, 200))}
    uses = np.concatenate([random.permutation(200) for _ in range(6)]).tolist()
    half = sum(size_of.values()) // 2
    planned, by_lru = (each(uses, size_of, half) for each in (fetched_by_plan, fetched_by_lru))
    assert planned < 0.85 * by_lru


def test_what_is_not_planned_goes_first_and_makes_no_room_for_itself() -> None:
    cache = Planned(3)
    for key in (b"a", b"b", b"c"):
        cache.add(key, 1)
    cache.plan(b"a", 5)
    assert cache.room(1, UNKNOWN) is None
    assert cache.room(2, 9) in ([b"b", b"c"], [b"c", b"b"])
    cache.add(b"d", 2, 9)
    assert cache.room(1, 10) is None
    assert cache.room(1, 8) == [b"d"]
    assert cache.room(4, 0) is None
    assert cache.worst() == b"a"
    assert cache.worst() is None


def test_many_changes_of_a_plan_need_little_memory() -> None:
    cache = Planned(10)
    cache.add(b"a", 1)
    for use in range(10_000):
        cache.plan(b"a", use)
    assert len(cache._latest) < 3000
