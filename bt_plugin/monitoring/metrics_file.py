"""Write and read the metrics of a run, one JSON object per line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from bt_plugin.errors import file_error
from bt_plugin.runs.atomic_file import write_atomically
from bt_plugin.runs.directory import METRICS
from dali_pipelines.regular_files import read_regular

logger = logging.getLogger(__name__)

T = TypeVar("T")


class MetricsFile:
    """A file of metrics such as RUN/metrics.jsonl, with at most one line per step.

    Args:
        run_dir: Directory of the run.
        step: Step that the run resumes from. Lines of later steps are removed, because those steps are done again.
        name: Name of the file.
    """

    def __init__(self, run_dir: Path, step: int, name: str = METRICS) -> None:
        path = run_dir / name
        # Damaged lines stay, because they belong to the user. Every reader skips them.
        kept = (line for line, values in _lines(path) if values is None or values["step"] <= step)
        write_atomically(path, b"".join(kept))
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by close

    def write(self, metrics: dict[str, Any]) -> None:
        self._file.write(json.dumps(metrics) + "\n")

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl or evaluations.jsonl, even during the run.

    Returns:
        A dict of numbers for each line, with its step. The list is empty without a file. Damaged lines are left out
        with one warning. A last line that a kill cut short is left out without a warning.
    """
    lines = [values for _, values in _lines(path)]
    damaged = [number for number, values in enumerate(lines, start=1) if values is None]
    if damaged:
        logger.warning("%s: %d damaged lines are left out. The first is line %d", path, len(damaged), damaged[0])
    return [values for values in lines if values is not None]


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield each whole line and its values, None if the line is damaged."""
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise file_error(error, path) from error
    for line in content.splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield line, _numbers_of(line)


def _numbers_of(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not _is_count(values.get("step")):
        return None
    # An integer of hundreds of digits fits no float, and a run never writes one.
    is_sound = all(
        value is None or type(value) is float or (type(value) is int and abs(value) < 2**63)
        for value in values.values()
    )
    return values if is_sound else None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
