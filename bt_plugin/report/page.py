"""Build the page: the charts, tables and maps of runs, with a text for each image for screen readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bt_plugin.monitoring.figures import as_png, snapshot_figures
from bt_plugin.monitoring.snapshot import CorrelationSnapshot
from bt_plugin.monitoring.view_pixels import COLORS
from bt_plugin.report.charts import EVALUATION, MOST_POINTS, TRAINING, baselines, charts, data_uri
from bt_plugin.report.embedding_map import COLUMNS, THUMBNAIL_PX, EmbeddingMap
from bt_plugin.report.palette import class_colors
from bt_plugin.report.record import RunRecord
from bt_plugin.report.tables import differing_keys, result_rows, summary_rows

# The slider shows at most this many snapshots, always with the first and the last.
_MOST_FRAMES = 20
# With more classes, the map has no button per class and shows only the class of one image.
_MOST_CLASSES = 40
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
        are_means=any(len(run.metrics) > MOST_POINTS for run in runs),
        training=charts(runs, TRAINING, RunRecord.metric),
        evaluation=charts(runs, EVALUATION, RunRecord.evaluation),
        sections=[_section(number, run, maps[run.name]) for number, run in enumerate(runs)],
        differing=differing_keys(runs),
        results=result_rows(runs),
    )


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
