"""What is logged of a run, and how fast it goes."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from bt_plugin.rundir import METRICS

T = TypeVar("T")


class MetricsFile:
    """RUN/metrics.jsonl, or another, in which every step stands at most once.

    Args:
        run_dir: Of the run.
        step: That the run continues from; later lines are of steps that will be done again, and go.
        name: Of the file.
    """

    def __init__(self, run_dir: Path, step: int, name: str = METRICS) -> None:
        path = run_dir / name
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step]
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, path)
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by close

    def write(self, metrics: dict[str, Any]) -> None:
        self._file.write(json.dumps(metrics) + "\n")

    def close(self) -> None:
        self._file.close()


class Best:
    """The best value of each metric so far, and the step it is of.

    Args:
        best: So far, from a checkpoint.
    """

    def __init__(self, best: dict[str, tuple[float, int]] | None = None) -> None:
        self.values = dict(best or {})

    def watch(self, step: int, lower: dict[str, float] | None = None, higher: dict[str, float] | None = None) -> None:
        """Of metrics that are better lower, and of those that are better higher; the earliest of equal ones stays."""
        for sign, metrics in ((1, lower), (-1, higher)):
            for name, value in (metrics or {}).items():
                if math.isfinite(value) and sign * value < sign * self.values.get(name, (sign * math.inf, 0))[0]:
                    self.values[name] = (value, step)


class Speed:
    """Images per second and the share of time spent waiting for data, since the last report.

    Args:
        global_batch_size: Images a step, over all ranks.
    """

    def __init__(self, global_batch_size: int) -> None:
        self._global_batch_size = global_batch_size
        self._reset()

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """Hands out the batches, and counts them and the time that each takes to come."""
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
        """{"images_per_s", "data_wait"} since the last call, data_wait as a fraction of 1."""
        elapsed_s = time.perf_counter() - self._since_s
        report = {
            "images_per_s": self._steps * self._global_batch_size / elapsed_s,
            "data_wait": self._waited_s / elapsed_s,
        }
        self._reset()
        return report

    def _reset(self) -> None:
        self._since_s = time.perf_counter()
        self._waited_s = 0.0
        self._steps = 0


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Of metrics.jsonl or evaluations.jsonl, also while it is written; none where it is not there."""
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[str]:
    """All lines but one that a kill cut short."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:
        return [line for line in file if line.endswith("\n")]
