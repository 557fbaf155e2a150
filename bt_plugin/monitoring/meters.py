"""Meters of a run: the best value of each metric, and how fast it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Best:
    """The best value of each metric so far, and its step.

    Args:
        best: Best values and their steps by metric, from a checkpoint.
    """

    def __init__(self, best: dict[str, tuple[float, int]] | None = None) -> None:
        self.values = dict(best or {})

    def watch(self, step: int, lower: dict[str, float] | None = None, higher: dict[str, float] | None = None) -> None:
        """Update the best values. The earliest of equal values stays.

        Args:
            step: Step of the metrics.
            lower: Metrics for which lower is better.
            higher: Metrics for which higher is better.
        """
        for sign, metrics in ((1, lower), (-1, higher)):
            for name, value in (metrics or {}).items():
                if math.isfinite(value) and sign * value < sign * self.values.get(name, (sign * math.inf, 0))[0]:
                    self.values[name] = (value, step)


class Speed:
    """Images per second and the share of time spent waiting for data, since the last report.

    Args:
        images_per_batch: Images per batch that `watch` yields, over all ranks.
    """

    def __init__(self, images_per_batch: int) -> None:
        self._images_per_batch = images_per_batch
        self._reset()

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches. Count them, and time the wait for each."""
        iterator = iter(batches)
        while True:
            asked_s = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited_s += time.perf_counter() - asked_s
            self._steps += 1
            yield batch

    def report(self) -> dict[str, float]:
        """Return {"images_per_s", "data_wait"} since the last call. data_wait is a fraction, 0 to 1."""
        elapsed_s = time.perf_counter() - self._since_s
        report = {
            "images_per_s": self._steps * self._images_per_batch / elapsed_s,
            "data_wait": self._waited_s / elapsed_s,
        }
        self._reset()
        return report

    def _reset(self) -> None:
        self._since_s = time.perf_counter()
        self._waited_s = 0.0
        self._steps = 0
