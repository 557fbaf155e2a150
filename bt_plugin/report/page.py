"""Build the page: the charts, tables and maps of runs, with a text for each image for screen readers."""

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

from bt_plugin.monitoring.figures import Level, Line, as_png, as_svg, curves, snapshot_figures
from bt_plugin.monitoring.snapshot import CorrelationSnapshot
from bt_plugin.monitoring.view_pixels import COLORS
from bt_plugin.report.embedding_map import COLUMNS, THUMBNAIL_PX, EmbeddingMap
from bt_plugin.report.palette import class_colors
from bt_plugin.report.record import RunRecord
from bt_plugin.report.tables import differing_keys, result_rows, summary_rows

# The slider shows at most this many snapshots, always with the first and the last.
_MOST_FRAMES = 20
# A figure has fewer pixels than this across, so a line needs no more points.
_MOST_POINTS = 1000
# With more classes, the map has no button per class and shows only the class of one image.
_MOST_CLASSES = 40


class _Chart(NamedTuple):
    """A chart of one metric.

    Args:
        name: Name of the metric.
        title: Title of the chart.
        log: Whether the vertical axis is logarithmic.
        says: Caption: what the metric is, and which direction is good.
        baselines: Key of the metric's baselines in summary.json, None if it has none.
    """

    name: str
    title: str
    log: bool
    says: str
    baselines: str | None = None


_SCHEDULE_SAYS = "The schedule: linear warm-up, then the decay of optim.schedule."
# The order of a reader's questions: does the run learn, is it healthy, is it fast, are the features good?
TRAINING = (
    _Chart(
        "loss",
        "loss",
        True,
        "Invariance term + lambda x redundancy term. Lower is better. Compare it only between runs with the same"
        " views, embedding dimension, global batch and lambda.",
    ),
    _Chart(
        "invariance",
        "invariance term",
        True,
        "How much the embeddings of an image's two views differ. Lower is better, 0 is best.",
    ),
    _Chart(
        "redundancy",
        "redundancy term",
        True,
        "How much the embeddings' features correlate, before the factor lambda. Lower is better. It rises at first."
        " Then it should stay level or fall slowly.",
    ),
    _Chart(
        "diagonal_mean",
        "mean of C's diagonal",
        False,
        "Correlation of the two views' embeddings. Higher is better, 1 is best. Near 0 the views share nothing.",
    ),
    _Chart(
        "embedding_std",
        "standard deviation of embeddings",
        False,
        "It should stay well above 0. Below 0.01 the embeddings have collapsed to nearly one point.",
    ),
    _Chart("grad_norm", "norm of the gradient", True, "A rise of some orders of magnitude comes before a divergence."),
    _Chart("lr_weights", "learning rate of weights", False, _SCHEDULE_SAYS),
    _Chart(
        "lr_biases",
        "learning rate of biases and norms",
        False,
        "The same schedule for the parameters that LARS does not adapt: biases and normalization layers.",
    ),
    _Chart("lr_base", "learning rate", False, _SCHEDULE_SAYS),
    _Chart("images_per_s", "images/s", False, "Training speed over all ranks. Higher is better."),
    _Chart(
        "data_wait",
        "share of time waiting for views",
        False,
        "0 to 1, lower is better. Above 0.05 the loader slows down training: see docs/faster.md.",
    ),
)
EVALUATION = (
    _Chart(
        "knn_top1",
        "kNN top-1",
        False,
        "Accuracy of the backbone's features on images of data.val. Higher is better.",
        "knn_top1",
    ),
    _Chart(
        "probe_top1",
        "online linear probe, top-1",
        False,
        "Accuracy on images of data.val of a linear classifier that is trained during the run. Higher is better.",
        "linear_top1",
    ),
    _Chart(
        "rankme",
        "RankMe of embeddings",
        False,
        "Number of directions that the embeddings use. Higher is better. Near 1 the embeddings have collapsed.",
        "rankme",
    ),
    _Chart(
        "effective_rank",
        "effective rank of features",
        False,
        "The same number for the backbone's features, after their mean is subtracted. Higher is better.",
        "effective_rank",
    ),
    _Chart(
        "off_diagonal_std",
        "standard deviation of C off its diagonal",
        False,
        "How much different features correlate. Lower is better, 0 is best.",
    ),
)
# The baselines in summary.json and their labels in the chart.
_BASELINES = {"raw": "raw pixels", "untrained": "untrained", "calibrated": "calibrated", "initialized": "initialized"}
# The final classifier is trained longer than the online probe, so its chart needs the pretrained network too.
_LEVELS = {"linear_top1": {**_BASELINES, "pretrained": "pretrained"}}
_RANKS_SAY = (
    "Dashed lines: networks that have learned nothing. They can use many directions too, so a high value alone does not"
    " show that a network has learned."
)
_BASELINES_SAY = {
    "knn_top1": "Dashed lines: baselines without this training. The curve should rise above all of them.",
    "linear_top1": "Dashed lines: linear classifiers that are trained at the end of the run. The line of the pretrained"
    " network should be above the others.",
    "rankme": _RANKS_SAY,
    "effective_rank": _RANKS_SAY,
}
_MOST_LEVELS = 6
_SHARED = "#545b64"
_FRAMES_SAY = {
    "cross_correlation": "Heatmap of the cross-correlation matrix: the root mean square of each block",
    "cross_correlation_first": "Heatmap of the matrix's first rows and columns. The goal is a red diagonal on white",
    "correlation_histogram": "Histogram of the matrix's entries, on the diagonal (goal: 1) and off it (goal: 0)",
    "embedding_spectrum": "Singular values of the embeddings, compared with the first evaluation. A slow fall is good",
}


def page(runs: Sequence[RunRecord], maps: Mapping[str, EmbeddingMap | str]) -> str:
    """Return the page as HTML, with all images, styles and scripts inside.

    Args:
        runs: One run, or several runs to compare.
        maps: Map of each run by the run's name, or the reason why there is none.
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
        has_baselines=any(baselines(runs, chart.baselines) for chart in EVALUATION if chart.baselines),
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
    """Draw the charts of the metrics that any of the runs has, with captions and texts for screen readers.

    Args:
        runs: Runs, each a line in every chart.
        wanted: Charts to draw.
        line_of: Function that returns the steps and values of a run's metric.
    """
    found = []
    for chart in wanted:
        lines = {run.name: line for run in runs if (line := line_of(run, chart.name))[0]}
        if not lines:
            continue
        log = chart.log and all(value > 0 for _, values in lines.values() for value in values if math.isfinite(value))
        colors = [COLORS[number % len(COLORS)] for number, run in enumerate(runs) if run.name in lines]
        levels = baselines(runs, chart.baselines) if chart.baselines else []
        figure = curves(
            {name: thinned(line) for name, line in lines.items()},
            title=chart.title,
            log=log,
            colors=colors,
            levels=levels,
        )
        found.append(
            {
                "src": data_uri(as_svg(figure), "svg+xml"),
                "alt": told(chart.title, lines, levels),
                "says": f"{chart.says} {_BASELINES_SAY[chart.baselines]}" if chart.baselines and levels else chart.says,
            }
        )
    return found


def baselines(runs: Sequence[RunRecord], metric: str) -> list[Level]:
    """Return a metric's baselines in the runs' summary.json. A value that all runs share is one gray level."""
    known = [(run.summary.get(metric) or {}, COLORS[number % len(COLORS)]) for number, run in enumerate(runs)]
    levels = []
    for name, label in _LEVELS.get(metric, _BASELINES).items():
        having = [(scores[name], color) for scores, color in known if name in scores]
        if len(having) == len(runs) and len({value for value, _ in having}) == 1:
            having = [(having[0][0], _SHARED)]
        levels += [Level(label, value, color) for value, color in having]
    if len(levels) > _MOST_LEVELS:  # their labels do not fit next to a chart
        return [level for level in levels if level.label == _BASELINES["calibrated"]]
    return levels


def thinned(line: Line) -> Line:
    """Reduce a line to the number of points that a figure can show. Each point is the mean of its neighbors."""
    steps, values = line
    each = -(-len(steps) // _MOST_POINTS)
    starts = range(0, len(steps), each)
    return [steps[min(start + each, len(steps)) - 1] for start in starts], [
        fmean(values[start : start + each]) for start in starts
    ]


def told(title: str, lines: Mapping[str, Line], levels: Sequence[Level] = ()) -> str:
    """Describe a chart in words."""
    parts = []
    for name, (steps, values) in lines.items():
        finite = [value for value in values if math.isfinite(value)]
        between = f"between {min(finite):.4g} and {max(finite):.4g}" if finite else "never finite"
        if 0 < len(finite) < len(values):
            between += f", {len(values) - len(finite)} times not finite"
        parts.append(f"{name}: {values[0]:.4g} at step {steps[0]}, {values[-1]:.4g} at step {steps[-1]}, {between}")
    dashed = ", ".join(f"{level.label} {level.value:.4g}" for level in levels)
    return f"Line chart of {title} by step. {'; '.join(parts)}.{f' Baselines: {dashed}.' if dashed else ''}"


def data_uri(content: str | bytes, kind: str) -> str:
    """Return an image as a URL that contains its data, so that the page needs no other file."""
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
