"""Measure the time and peak memory of a step, on a CPU or GPU, each in its own process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def measure(step: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Run one pass to warm up and `repeats` timed passes. Load the libraries before.

    Args:
        step: Function to measure.
        repeats: Number of timed passes, 1 or more.

    Returns:
        median_s and times_s, and peak_mib: the peak memory of a pass less the memory before it. On a CPU it is the
        memory of the process, on a GPU that of torch's allocator.
    """
    on_gpu = torch.cuda.is_available()
    times_s, peaks = [], []
    for _ in range(1 + repeats):
        before = _start_peak(on_gpu)
        begun_s = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - begun_s)
        peaks.append(_peak(on_gpu) - before)
    return {
        "median_s": statistics.median(times_s[1:]),
        "times_s": times_s[1:],
        # A process keeps freed memory for later passes, so only its first pass shows the memory that it needs.
        "peak_mib": (max(peaks) if on_gpu else peaks[0]) / 2**20,
    }


class MeasurementError(SystemExit):
    """A measurement that failed. Where it is not caught, the script ends with its message."""


class Deadline:
    """The time that a benchmark may take.

    Args:
        minutes: Minutes from now; None is no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self._end_s = None if minutes is None else time.monotonic() + 60 * minutes

    def has_passed(self) -> bool:
        """Return whether the time is over."""
        return self._end_s is not None and time.monotonic() > self._end_s


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Run this script in a new process with these additional arguments, and return the JSON that it prints.

    Raises:
        MeasurementError: If the process fails; the message has its error output.
    """
    result = subprocess.run([sys.executable, *sys.argv, *arguments], capture_output=True, text=True)
    if result.returncode:
        raise MeasurementError(f"{' '.join(arguments)}:\n{result.stderr}")
    measured: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return measured


def _start_peak(on_gpu: bool) -> int:
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # This resets VmHWM to the present size: proc(5).
    Path("/proc/self/clear_refs").write_text("5")
    return process_bytes("VmRSS")


def _peak(on_gpu: bool) -> int:
    return torch.cuda.max_memory_allocated() if on_gpu else process_bytes("VmHWM")


def process_bytes(field: str) -> int:
    """Return the bytes of a field of proc(5): VmRSS, the memory of the process, or VmHWM, its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
