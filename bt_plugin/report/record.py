"""Read the files that a run has written so far."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import FileError, RecipeError, WeightsError
from bt_plugin.monitoring.figures import Line
from bt_plugin.monitoring.metrics_file import read_lines
from bt_plugin.monitoring.snapshot import PICTURES, VIEWS, CorrelationSnapshot, read_snapshots
from bt_plugin.runs.directory import EVALUATIONS, METRICS, RECIPE, SUMMARY
from bt_plugin.runs.result_files import EvaluationResult, Summary, read_result
from bt_plugin.weights.model_file import find_export, has_export, read_model_file

logger = logging.getLogger(__name__)


class RunRecord(NamedTuple):
    """The content of a run's files.

    Args:
        name: Name of the run's directory, or its path if another run has the same name.
        folder: The run's directory.
        recipe: The resolved recipe.
        metrics: Lines of metrics.jsonl.
        evaluations: Lines of evaluations.jsonl.
        snapshots: Correlation snapshots by step.
        views: Path of views.png, None if there is no such file.
        summary: Content of summary.json, empty if the run is unfinished.
        results: Results of `knn`, `linear` and `finetune` for this run, the oldest first.
        versions: Versions of the packages at export.
    """

    name: str
    folder: Path
    recipe: Recipe
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    snapshots: dict[int, CorrelationSnapshot]
    views: Path | None
    summary: dict[str, Any]
    results: list[dict[str, Any]]
    versions: dict[str, str]

    def metric(self, name: str) -> Line:
        """Return the steps and values of a metric in metrics.jsonl."""
        return _column(self.metrics, name)

    def evaluation(self, name: str) -> Line:
        """Return the steps and values of a metric in evaluations.jsonl. Some names are also in metrics.jsonl."""
        return _column(self.evaluations, name)


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Read the runs in these directories. A run may be unfinished.

    Raises:
        RecipeError: If a directory does not contain a run, or is given twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, real in zip(folders, resolved):
        if not (folder / RECIPE).is_file():
            raise RecipeError(f"{folder}: has no {RECIPE}. Give the directory of a run (its run.output_dir)")
        if resolved.count(real) > 1:
            raise RecipeError(f"{folder}: is given twice. Give each run once")
    names = [real.name for real in resolved]
    return [_read(folder, name if names.count(name) == 1 else str(folder)) for folder, name in zip(folders, names)]


def _read(folder: Path, name: str) -> RunRecord:
    views = folder / PICTURES / VIEWS
    return RunRecord(
        name=name,
        folder=folder,
        recipe=load_recipe(folder / RECIPE),
        metrics=read_lines(folder / METRICS),
        evaluations=read_lines(folder / EVALUATIONS),
        snapshots=read_snapshots(folder),
        views=views if views.is_file() else None,
        summary=read_result(folder / SUMMARY, Summary),
        results=list(filter(None, (read_result(path, EvaluationResult) for path in _oldest_first(folder / "eval")))),
        versions=_versions_of(folder),
    )


def _column(lines: list[dict[str, Any]], name: str) -> Line:
    having = [line for line in lines if line.get(name) is not None]
    return [line["step"] for line in having], [line[name] for line in having]


def _oldest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"), key=lambda path: path.lstat().st_mtime)


def _versions_of(folder: Path) -> dict[str, str]:
    """Return the versions in model.json. Skip a damaged file with a warning."""
    if not has_export(folder):
        return {}
    try:
        return read_model_file(find_export(folder)).versions
    except (WeightsError, FileError) as error:
        logger.warning("%s. The report does not show the versions of its packages", error)
        return {}
