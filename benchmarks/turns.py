"""Measure contenders alternately, each in its own process, so that a machine that slows down slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.multiprocessing as mp
from measure import Deadline

Action = Callable[[], object]


def by_turns(
    makers: Mapping[str, Callable[[], Action]],
    rounds: int,
    times: int,
    *,
    ahead: int,
    minutes: float | None = None,
    on_round: Callable[[dict[str, list[float]]], object] = lambda times_s: None,
) -> dict[str, list[float]]:
    """Return the seconds per action of each contender, round by round. A contender that fails is named and left out.

    Args:
        makers: Functions that build a contender's action, by name. Each is called once, in the contender's process.
        rounds: Number of rounds. Each contender is measured once per round.
        times: Number of timed actions per round.
        ahead: Number of untimed actions before them. They use up what was prefetched while the others were measured.
        minutes: Time after which no further round begins.
        on_round: Function that is called after each round, to keep what was measured so far.
    """
    context, deadline = mp.get_context("spawn"), Deadline(minutes)
    pipes: dict[str, Connection] = {}
    times_s: dict[str, list[float]] = {}
    for name, maker in makers.items():
        pipe, theirs = context.Pipe()
        context.Process(target=_acting, args=(maker, times, ahead, theirs)).start()
        # Wait until it is ready, so that no contender starts while another is measured.
        theirs.close()
        if _answer(name, pipe) is not None:
            pipes[name], times_s[name] = pipe, []
    try:
        for _ in range(rounds):
            for name, pipe in [*pipes.items()]:
                pipe.send(True)
                time_s = _answer(name, pipe)
                if time_s is None:
                    del pipes[name], times_s[name]
                else:
                    times_s[name].append(time_s)
            on_round(times_s)
            if deadline.has_passed():
                print(f"stopped after {minutes} minutes")
                break
    finally:
        for pipe in pipes.values():
            pipe.send(False)
    return times_s


def _answer(name: str, pipe: Connection) -> float | None:
    """Return the seconds that a contender measured, or print why there are none."""
    try:
        answer = pipe.recv()
    except EOFError:
        answer = "its process ended"
    if isinstance(answer, str):
        print(f"{name} failed: {answer}")
        return None
    return float(answer)


def ratios_to_ours(times_s: dict[str, list[float]], images: int) -> dict[str, dict[str, Any]]:
    """Return medians, and the ratios to ours within each round.

    Args:
        times_s: Seconds per action in each round, by contender; one is "ours".
        images: Number of images per action.
    """
    results = {}
    for name, times in times_s.items():
        ratios = [time_s / of_ours for time_s, of_ours in zip(times, times_s.get("ours", []))]
        results[name] = {
            "images_per_s": images / statistics.median(times),
            "ratio": statistics.median(ratios) if ratios else None,
            "ratios": ratios,
            "action_s": times,
        }
    return results


def compared(times_s: dict[str, list[float]], images: int) -> dict[str, dict[str, Any]]:
    """Print and return what ratios_to_ours returns."""
    results = ratios_to_ours(times_s, images)
    for name, row in results.items():
        ratios = row["ratios"]
        of_ours = f"{row['ratio']:.2f} of the time of ours ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        print(f"{name:<45} {row['images_per_s']:8.1f} images/s, {of_ours}")
    return results


def _acting(maker: Callable[[], Action], times: int, ahead: int, pipe: Connection) -> None:
    try:
        act = maker()
        # The first actions allocate buffers, choose algorithms and compile.
        for _ in range(3):
            act()
        pipe.send(0.0)
        while pipe.recv():
            for _ in range(ahead):
                act()
            _synchronize()
            begun_s = time.perf_counter()
            for _ in range(times):
                act()
            _synchronize()
            pipe.send((time.perf_counter() - begun_s) / times)
    except Exception as error:  # a contender may fail in any way, and the others shall be measured
        pipe.send(f"{type(error).__name__}: {error}")


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
