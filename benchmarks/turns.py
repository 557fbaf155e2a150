"""Measure contenders alternately, each in its own process, so that a machine that slows down slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.multiprocessing as mp

Action = Callable[[], object]


def by_turns(makers: Mapping[str, Callable[[], Action]], rounds: int, times: int, ahead: int) -> dict[str, list[float]]:
    """Return the seconds per action of each contender, round by round.

    Args:
        makers: Functions that build a contender's action, by name. Each is called once, in the contender's process.
        rounds: Number of rounds. Each contender is measured once per round.
        times: Number of timed actions per round.
        ahead: Number of untimed actions before them. They use up what was prefetched while the others were measured.
    """
    context = mp.get_context("spawn")
    pipes = {}
    for name, maker in makers.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=_acting, args=(maker, times, ahead, theirs)).start()
        # Wait until it is ready, so that no contender starts while another is measured.
        theirs.close()
        pipes[name].recv()
    times_s: dict[str, list[float]] = {name: [] for name in makers}
    try:
        for _ in range(rounds):
            for name, pipe in pipes.items():
                pipe.send(True)
                times_s[name].append(pipe.recv())
    finally:
        for pipe in pipes.values():
            pipe.send(False)
    return times_s


def compared(times_s: dict[str, list[float]], images: int) -> dict[str, dict[str, Any]]:
    """Print and return medians, and the ratios to ours within each round.

    Args:
        times_s: Seconds per action in each round, by contender; one is "ours".
        images: Number of images per action.
    """
    results = {}
    for name, times in times_s.items():
        ratios = [time_s / of_ours for time_s, of_ours in zip(times, times_s["ours"])]
        results[name] = {
            "images_per_s": images / statistics.median(times),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "action_s": times,
        }
        print(
            f"{name:<45} {results[name]['images_per_s']:8.1f} images/s, {results[name]['ratio']:.2f} of the time of"
            f" ours ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return results


def _acting(maker: Callable[[], Action], times: int, ahead: int, pipe: Connection) -> None:
    act = maker()
    # The first actions allocate buffers, choose algorithms and compile.
    for _ in range(3):
        act()
    pipe.send("ready")
    while pipe.recv():
        for _ in range(ahead):
            act()
        _synchronize()
        begun_s = time.perf_counter()
        for _ in range(times):
            act()
        _synchronize()
        pipe.send((time.perf_counter() - begun_s) / times)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
