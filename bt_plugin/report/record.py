"""What a run has written so far, read again."""

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
    """A run's files.

    Args:
        name: Its directory's, or where others have the same, the path.
        folder: Its directory.
        recipe: Resolved.
        metrics: Lines of metrics.jsonl.
        evaluations: Lines of evaluations.jsonl.
        snapshots: Pictures by their steps.
        views: views.png, where it is there.
        summary: Of a run that is done.
        results: Evaluations of it by `knn`, `linear` and `finetune`, the oldest first.
        versions: Of packages, when it was exported.
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
        """Steps and values of a number of metrics.jsonl."""
        return _column(self.metrics, name)

    def evaluation(self, name: str) -> Line:
        """Steps and values of a number of evaluations.jsonl, where some have the same names."""
        return _column(self.evaluations, name)


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The runs in these directories, done or not.

    Raises:
        RecipeError: If a directory holds no run, or is named twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, real in zip(folders, resolved):
        if not (folder / RECIPE).is_file():
            raise RecipeError(f"{folder}: has no {RECIPE}; name a run's directory, its run.output_dir")
        if resolved.count(real) > 1:
            raise RecipeError(f"{folder}: is named twice; name each run once")
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
    """Return the versions in model.json; a damaged file is left out with a warning."""
    if not has_export(folder):
        return {}
    try:
        return read_model_file(find_export(folder)).versions
    except (WeightsError, FileError) as error:
        logger.warning("%s; left out of the report", error)
        return {}
