"""Draw the charts of the page: one for each metric, with the baselines of finished runs."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from bt_plugin.monitoring.figures import Level, Line, as_svg, curves
from bt_plugin.monitoring.view_pixels import COLORS
from bt_plugin.report.record import RunRecord

# A figure has fewer pixels than this across, so a line needs no more points.
MOST_POINTS = 1000


class _Chart(NamedTuple):
    """A chart of one metric.

    Args:
        name: Name of the metric.
        title: Title of the chart.
        log: Whether the vertical axis is logarithmic.
        says: Caption: what the metric is, and which direction is good.
        baselines: Key of the metric's baselines in summary.json, None if it has none.
        images: Metric with the number of images that the value depends on. The title then has it.
    """

    name: str
    title: str
    log: bool
    says: str
    baselines: str | None = None
    images: str | None = None


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
        "view_retrieval_top1",
        "view retrieval, top-1",
        False,
        "Share of training images whose other view is the nearest one among so many images. Higher is better. It needs"
        " no labels.",
        "view_retrieval_top1",
        "view_retrieval_images",
    ),
    _Chart(
        "rankme",
        "RankMe of embeddings",
        False,
        "Number of directions that the embeddings use. It should stay far above 1. Near 1 they have collapsed.",
        "rankme",
    ),
    _Chart(
        "effective_rank",
        "effective rank of features",
        False,
        "The same number for the backbone's features, after their mean is subtracted. It should stay far above 1.",
        "effective_rank",
    ),
    _Chart(
        "lidar",
        "LiDAR of embeddings",
        False,
        "Number of directions that tell images apart in spite of their views, at most 255. Near 1 the embeddings have"
        " collapsed. It can fall while accuracy rises.",
        "lidar",
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
    "view_retrieval_top1": "Dashed lines: baselines without this training, on the same views. The curve should rise"
    " above them, unless many images show the same object.",
    "rankme": _RANKS_SAY,
    "effective_rank": _RANKS_SAY,
    "lidar": _RANKS_SAY,
}
_MOST_LEVELS = 6
_SHARED = "#545b64"


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
        title = chart.title
        if chart.images:
            counts = {int(count) for run in runs for count in line_of(run, chart.images)[1]}
            title += f" of {' or '.join(f'{count:,}' for count in sorted(counts))} images"
        figure = curves(
            {name: thinned(line) for name, line in lines.items()},
            title=title,
            log=log,
            colors=colors,
            levels=levels,
        )
        found.append(
            {
                "src": data_uri(as_svg(figure), "svg+xml"),
                "alt": told(title, lines, levels),
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
    each = -(-len(steps) // MOST_POINTS)
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
