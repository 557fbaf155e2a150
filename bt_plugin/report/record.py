"""What a run has written so far, read again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from bt_plugin.errors import RecipeError
from bt_plugin.figures import Line
from bt_plugin.monitor import read_lines
from bt_plugin.recipe import Recipe
from bt_plugin.recipe_file import load_recipe
from bt_plugin.rundir import EVALUATIONS, METRICS, RECIPE, SUMMARY
from bt_plugin.runs.model_file import EXPORT, MODEL
from bt_plugin.runs.result_files import EvaluationResult, Result, Summary, read_result
from bt_plugin.snapshot import PICTURES, VIEWS, Snapshot, read_album


class RunRecord(NamedTuple):
    """A run's files.

    Args:
        name: Its directory's, or where others have the same, the path.
        folder: Its directory.
        recipe: Resolved.
        metrics: Lines of metrics.jsonl.
        evaluations: Lines of evaluations.jsonl.
        album: Pictures by their steps.
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
    album: dict[int, Snapshot]
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
        album=read_album(folder),
        views=views if views.is_file() else None,
        summary=read_result(folder / SUMMARY, Summary),
        results=list(filter(None, (read_result(path, EvaluationResult) for path in _oldest_first(folder / "eval")))),
        versions=read_result(folder / EXPORT / MODEL, _Described).get("versions", {}),
    )


def _column(lines: list[dict[str, Any]], name: str) -> Line:
    having = [line for line in lines if line.get(name) is not None]
    return [line["step"] for line in having], [line[name] for line in having]


def _oldest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"), key=lambda path: path.lstat().st_mtime)


class _Described(Result):
    """RUN/export/model.json, what a report shows of it."""

    versions: dict[str, str] = Field(default_factory=dict)
