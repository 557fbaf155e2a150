"""Build the tables of the page as rows of text."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bt_plugin.monitoring.figures import Line
from bt_plugin.report.record import RunRecord
from bt_plugin.runs.accuracies import METRICS, NETWORKS, accuracy_text, with_interval

_NONE = "-"


def summary_rows(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the rows of the summary: a name and one value per run. Rows without any value are left out."""
    lines: dict[str, Callable[[RunRecord], str]] = {
        "steps": _steps,
        "last loss": lambda run: _last(run.metric("loss"), "{:.4g}"),
        **_accuracies(),
        "last LiDAR of embeddings": lambda run: _last(run.evaluation("lidar"), "{:.1f}"),
        "last RankMe of embeddings": lambda run: _last(run.evaluation("rankme"), "{:.1f}"),
        "images/s over all ranks, median": lambda run: _median(run.metric("images_per_s"), "{:.0f}"),
        "share of time waiting for views, median": lambda run: _median(run.metric("data_wait"), "{:.1%}"),
        "skipped steps (loss or gradient not finite)": lambda run: _last(run.metric("nonfinite_steps"), "{:.0f}"),
        "ranks": lambda run: str(run.summary.get("world_size", _NONE)),
        "device": lambda run: str(run.summary.get("device", _NONE)),
        "mixed precision": lambda run: str(run.summary.get("mixed_precision", _NONE)),
    }
    rows = [(name, [cell(run) for run in runs]) for name, cell in lines.items()]
    return [(name, cells) for name, cells in rows if any(cell != _NONE for cell in cells)]


def result_rows(runs: Sequence[RunRecord]) -> list[list[str]]:
    """Return the run, method, top-1 accuracy with its interval, and date of each saved evaluation."""
    rows = []
    for run in runs:
        for result in run.results:
            between = result.get("top1_interval")
            top1 = with_interval(result["top1"], between) if between else f"{result['top1']:.1%}"
            rows.append([run.name, str(result.get("method")), top1, str(result.get("date"))])
    return rows


def differing_keys(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the recipe keys whose values differ between runs, with the value in each run."""
    flat = [run.recipe.flat_dict() for run in runs]
    keys = dict.fromkeys(key for of_it in flat for key in of_it)
    rows = [(key, [_plain(of_it.get(key, _NONE)) for of_it in flat]) for key in keys]
    return [(key, cells) for key, cells in rows if len(set(cells)) > 1]


def _plain(value: Any) -> str:
    return "null" if value is None else str(value)


def _steps(run: RunRecord) -> str:
    steps, _ = run.metric("loss")
    done = run.summary.get("step", steps[-1] if steps else 0)
    return f"{done}" if run.summary else f"{done}, unfinished"


def _last(line: Line, form: str) -> str:
    _, values = line
    return form.format(values[-1]) if values else _NONE


def _median(line: Line, form: str) -> str:
    _, values = line
    return form.format(statistics.median(values)) if values else _NONE


def _accuracies() -> dict[str, Callable[[RunRecord], str]]:
    """Return the cells of each accuracy and network, the network that matters most first."""
    return {
        f"{metric.name}, {NETWORKS[network]}": partial(_accuracy, key=key, network=network)
        for key, metric in METRICS.items()
        for network in reversed(NETWORKS)
    }


def _accuracy(run: RunRecord, *, key: str, network: str) -> str:
    cell, images = accuracy_text(run.summary, key, network), run.summary.get(METRICS[key].images)
    return cell if images is None or cell == _NONE else f"{cell} of {images:,} images"
