"""The page: what of the runs is shown, and how it is told to who does not see it."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from statistics import fmean
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bt_plugin.monitoring.figures import Line, as_png, as_svg, curves, snapshot_figures
from bt_plugin.monitoring.snapshot import CorrelationSnapshot
from bt_plugin.monitoring.view_pixels import COLORS
from bt_plugin.report.embedding_map import COLUMNS, THUMBNAIL_PX, EmbeddingMap
from bt_plugin.report.palette import class_colors
from bt_plugin.report.record import RunRecord
from bt_plugin.report.tables import differing_keys, result_rows, summary_rows

# Frames of a slider; of more snapshots so many are taken, the first and the last among them.
_MOST_FRAMES = 20
# Of a line: a figure has fewer pixels.
_MOST_POINTS = 1000
# Of which there are buttons; of more the map says the names alone.
_MOST_CLASSES = 40


class _Chart(NamedTuple):
    """Of a number: its title, whether it is shown by logarithms, and what it says."""

    name: str
    title: str
    log: bool
    says: str


# In the order in which somebody asks: does it learn, is it sound, is it fast, is it good.
TRAINING = (
    _Chart("loss", "loss", True, "The objective."),
    _Chart("invariance", "invariance term", True, "Falls as both views of an image are embedded alike."),
    _Chart(
        "redundancy", "redundancy-reduction term", True, "Before lambda. Rises at first, then stays or falls slowly."
    ),
    _Chart("diagonal_mean", "mean of C's diagonal", False, "Towards 1; near 0 nothing is shared by the views."),
    _Chart("embedding_std", "spread of embeddings", False, "Near 0 they have collapsed."),
    _Chart("lr_weights", "rate of the weights", False, "The schedule."),
    _Chart("lr_biases", "rate of biases and norms", False, "The same, of what is not adapted by LARS."),
    _Chart("images_per_s", "images/s", False, "Of all ranks."),
    _Chart("data_wait", "share of time that waits for views", False, "Above 0.05 see docs/faster.md."),
)
EVALUATION = (
    _Chart("knn_top1", "kNN top-1", False, "On images of data.val."),
    _Chart("probe_top1", "top-1 of the online probe", False, "A linear layer that learns beside the run."),
    _Chart("rankme", "RankMe of embeddings", False, "Directions that are used; near 1 they have collapsed."),
    _Chart("effective_rank", "effective rank of features", False, "The same of the centred features."),
    _Chart("off_diagonal_std", "spread of C off its diagonal", False, "Towards 0."),
)
_FRAMES_SAY = {
    "cross_correlation": "Heatmap of the cross-correlation matrix in blocks, of each the rms",
    "cross_correlation_first": "Heatmap of the matrix's first entries; the objective is a red diagonal on white",
    "correlation_histogram": "Histogram of the matrix's entries on its diagonal and off it",
    "embedding_spectrum": "Singular values of the embeddings, beside those of the first picture",
}


def page(runs: Sequence[RunRecord], maps: Mapping[str, EmbeddingMap | str]) -> str:
    """HTML with all that it needs in it.

    Args:
        runs: One, or several to compare.
        maps: Of each run by its name, or why there is none.
    """
    environment = Environment(
        loader=PackageLoader("bt_plugin.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    shown = files("bt_plugin.report")
    return environment.get_template("page.html.j2").render(
        title=" and ".join(run.name for run in runs),
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        style=Markup(shown.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(shown.joinpath("page.js").read_text(encoding="utf-8")),
        names=[run.name for run in runs],
        colors=COLORS,
        summary=summary_rows(runs),
        are_means=any(len(run.metrics) > _MOST_POINTS for run in runs),
        training=charts(runs, TRAINING, RunRecord.metric),
        evaluation=charts(runs, EVALUATION, RunRecord.evaluation),
        sections=[_section(number, run, maps[run.name]) for number, run in enumerate(runs)],
        differing=differing_keys(runs),
        results=result_rows(runs),
    )


def charts(
    runs: Sequence[RunRecord], wanted: Iterable[_Chart], line_of: Callable[[RunRecord, str], Line]
) -> list[dict[str, str]]:
    """Figures of the numbers that any of the runs has, with their texts.

    Args:
        runs: Each a line in every figure.
        wanted: The figures.
        line_of: A run's number by its name.
    """
    found = []
    for chart in wanted:
        lines = {run.name: line for run in runs if (line := line_of(run, chart.name))[0]}
        if not lines:
            continue
        log = chart.log and all(value > 0 for _, values in lines.values() for value in values if math.isfinite(value))
        colors = [COLORS[number % len(COLORS)] for number, run in enumerate(runs) if run.name in lines]
        figure = curves(
            {name: thinned(line) for name, line in lines.items()}, title=chart.title, log=log, colors=colors
        )
        found.append({"src": data_uri(as_svg(figure), "svg+xml"), "alt": told(chart.title, lines), "says": chart.says})
    return found


def thinned(line: Line) -> Line:
    """At most so many points as a figure can show, each the mean of as many neighbours."""
    steps, values = line
    each = -(-len(steps) // _MOST_POINTS)
    starts = range(0, len(steps), each)
    return [steps[min(start + each, len(steps)) - 1] for start in starts], [
        fmean(values[start : start + each]) for start in starts
    ]


def told(title: str, lines: Mapping[str, Line]) -> str:
    """A chart in words."""
    parts = []
    for name, (steps, values) in lines.items():
        finite = [value for value in values if math.isfinite(value)]
        between = f"between {min(finite):.4g} and {max(finite):.4g}" if finite else "never finite"
        if 0 < len(finite) < len(values):
            between += f", {len(values) - len(finite)} times not finite"
        parts.append(f"{name}: {values[0]:.4g} at step {steps[0]}, {values[-1]:.4g} at step {steps[-1]}, {between}")
    return f"Line chart of {title} by steps. {'; '.join(parts)}."


def data_uri(content: str | bytes, kind: str) -> str:
    """An image inside of the page."""
    data = content.encode() if isinstance(content, str) else content
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _section(number: int, run: RunRecord, found: EmbeddingMap | str) -> dict[str, Any]:
    return {
        "name": run.name,
        "number": number,
        "frames": _frames(run.snapshots),
        "views": data_uri(run.views.read_bytes(), "png") if run.views else None,
        "map": _map(found) if isinstance(found, EmbeddingMap) else None,
        "no_map": found if isinstance(found, str) else None,
        "recipe": run.recipe.to_yaml(),
        "versions": run.versions,
    }


def _frames(snapshots: Mapping[int, CorrelationSnapshot]) -> list[dict[str, Any]]:
    steps = list(snapshots)
    if len(steps) > _MOST_FRAMES:
        last = len(steps) - 1
        steps = [steps[round(place * last / (_MOST_FRAMES - 1))] for place in range(_MOST_FRAMES)]
    frames = []
    for step in steps:
        figures = snapshot_figures(snapshots[step], snapshots[steps[0]])
        pictures = [
            {"src": data_uri(as_png(figure), "png"), "alt": f"{_FRAMES_SAY[name]}, at step {step}."}
            for name, figure in figures.items()
        ]
        frames.append({"step": step, "pictures": pictures})
    return frames


def _map(found: EmbeddingMap) -> dict[str, Any]:
    colors = class_colors(len(found.classes))
    labelled = [label >= 0 and bool(found.classes) for label in found.labels]
    return {
        "source": found.source,
        "n": len(found.names),
        "classes": list(zip(found.classes, colors)) if len(found.classes) <= _MOST_CLASSES else [],
        "n_classes": len(found.classes),
        "points": [
            {
                "x": round(20 + 960 * float(x), 1),
                "y": round(20 + 660 * float(y), 1),
                "label": label if known else -1,
                "color": colors[label] if known else COLORS[0],
                "name": f"{name}, {found.classes[label]}" if known else name,
            }
            for (x, y), label, known, name in zip(found.points, found.labels, labelled, found.names)
        ],
        "sprite": data_uri(found.sprite, "jpeg"),
        "thumbnail_px": THUMBNAIL_PX,
        "columns": COLUMNS,
    }
