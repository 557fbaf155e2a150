"""Decoded groups that threads share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from dali_pipelines.sources.group_cache import GroupCache


class Decoded(NamedTuple):
    number: int
    n_bytes: int = 10
    is_whole: bool = True


def test_the_groups_that_were_used_last_are_kept() -> None:
    decoded: list[int] = []

    def decode(number: int) -> Decoded:
        decoded.append(number)
        return Decoded(number)

    cache = GroupCache(decode, 30)
    for number in (0, 1, 2, 0, 3, 0, 2, 1):
        assert cache.get(number).number == number
    assert decoded == [0, 1, 2, 3, 1], "1 was the oldest when 3 came"
    assert cache._n_bytes == 30


def test_a_group_that_is_larger_than_the_cache_is_kept_alone() -> None:
    decoded: list[int] = []

    def decode(number: int) -> Decoded:
        decoded.append(number)
        return Decoded(number, 100)

    cache = GroupCache(decode, 30)
    for number in (0, 0, 1, 1, 0):
        cache.get(number)
    assert decoded == [0, 1, 0]


def test_threads_that_want_one_group_decode_it_once_and_others_do_not_wait() -> None:
    decoded: list[int] = []
    may_end = threading.Event()

    def decode(number: int) -> Decoded:
        decoded.append(number)
        if number == 0:
            assert may_end.wait(30)
        return Decoded(number)

    cache = GroupCache(decode, 100)
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(cache.get, 0) for _ in range(6)]
        assert threads.submit(cache.get, 1).result(30).number == 1
        may_end.set()
        assert {each.result(30).number for each in waiting} == {0}
    assert sorted(decoded) == [0, 1]


def test_an_error_reaches_every_thread_and_is_not_kept() -> None:
    fails = [True]

    def decode(number: int) -> Decoded:
        if fails.pop():
            raise OSError("no answer")
        fails.append(False)
        return Decoded(number)

    cache = GroupCache(decode, 100)
    with pytest.raises(OSError, match="no answer"):
        cache.get(0)
    fails.append(False)
    assert cache.get(0).number == 0


def test_a_part_of_a_group_is_not_kept() -> None:
    decoded: list[int] = []

    def decode(number: int) -> Decoded:
        decoded.append(number)
        return Decoded(number, is_whole=len(decoded) > 1)

    cache = GroupCache(decode, 100)
    for _ in range(3):
        cache.get(0)
    assert decoded == [0, 0]
    assert cache._n_bytes == 10
