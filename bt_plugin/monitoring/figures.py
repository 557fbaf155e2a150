"""Draw the figures of a run for trackers and the report. matplotlib needs no screen for this."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray
from PIL import Image

from bt_plugin.monitoring.snapshot import BIN_EDGES, Array, CorrelationSnapshot
from bt_plugin.monitoring.view_pixels import COLORS

# The width of a phone, so that the text is readable there.
_SIZE_IN = (3.6, 2.6)
# Sharp on screens with two pixels per CSS pixel.
_DPI = 160
# Text stays text, in the reader's font. The fixed salt makes equal figures equal files.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bt_plugin",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Line = tuple[Sequence[float], Sequence[float]]
# Fractions of the axes' height: where the labels of levels end, and how far apart they are at least.
_LABELS_UP_TO, _LABEL_GAP = 0.97, 0.1


class Level(NamedTuple):
    """A constant value in a chart of curves, with its label and color."""

    label: str
    value: float
    color: str


def heatmap(c: Array, title: str, signed: bool) -> Figure:
    """Draw C or a part of it. Without signs, the color scale also separates small values."""
    figure, axes = _figure(title, (_SIZE_IN[0], 3.1))
    norm = Normalize(-1, 1) if signed else PowerNorm(0.5, 0, 1)
    picture = axes.imshow(c, cmap="RdBu_r" if signed else "Reds", norm=norm, interpolation="nearest")
    figure.colorbar(picture, ax=axes)
    axes.set(xticks=[], yticks=[], xlabel="features of view b", ylabel="features of view a")
    return figure


def histogram(snapshot: CorrelationSnapshot) -> Figure:
    """Draw the histograms of C's entries on and off the diagonal."""
    figure, axes = _figure("entries of C")
    for counts, name, color in (
        (snapshot.diagonal_counts, "on the diagonal", COLORS[1]),
        (snapshot.off_diagonal_counts, "off the diagonal", COLORS[0]),
    ):
        axes.stairs(counts / max(1, counts.sum()), BIN_EDGES, label=name, color=color, fill=True, alpha=0.6)
    axes.set(xlim=(-1, 1), xlabel="correlation", ylabel="share of entries")
    axes.legend(frameon=False)
    return figure


def spectrum(values: Mapping[str, Array]) -> Figure:
    """Draw lists of singular values, each list relative to its largest value."""
    figure, axes = _figure("singular values of embeddings")
    for (name, of_it), color in zip(values.items(), COLORS):
        axes.plot(np.arange(1, len(of_it) + 1), of_it / max(of_it.max(), 1e-12), label=name, color=color)
    axes.set(yscale="log", ylim=(1e-4, 1.5), xlabel="index", ylabel="relative to the largest")
    axes.legend(frameon=False)
    return figure


def curves(
    lines: Mapping[str, Line], *, title: str, log: bool, colors: Sequence[str], levels: Sequence[Level] = ()
) -> Figure:
    """Draw values over the steps, one line each. The page names the lines next to the figure.

    Args:
        lines: Steps and values by name.
        title: Title of the figure.
        log: Whether the vertical axis is logarithmic.
        colors: Colors of the lines, in the same order.
        levels: Constant values, drawn as dashed lines with their labels at the right. Not on a logarithmic axis.
    """
    figure, axes = _figure(title)
    for (name, (steps, values)), color in zip(lines.items(), colors):
        axes.plot(steps, values, label=name, color=color, linewidth=1.2, marker="." if len(steps) < 30 else None)
    axes.set_xlabel("step")
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    _draw_levels(axes, levels)
    return figure


def snapshot_figures(snapshot: CorrelationSnapshot, first: CorrelationSnapshot | None = None) -> dict[str, Figure]:
    """Draw all figures of a snapshot, by name. The spectrum also shows that of `first`, the run's first snapshot."""
    shown = {"first": first.spectrum} if first is not None else {}
    side = len(snapshot.c_first)
    return {
        "cross_correlation": heatmap(snapshot.c_whole, "C: root mean square of each block", signed=False),
        "cross_correlation_first": heatmap(snapshot.c_first, f"C: the first {side} features", signed=True),
        "correlation_histogram": histogram(snapshot),
        "embedding_spectrum": spectrum({**shown, "now": snapshot.spectrum}),
    }


def as_svg(figure: Figure) -> str:
    """Return the figure as the text of an SVG file."""
    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def as_png(figure: Figure) -> bytes:
    """Return the figure as a PNG file of 256 colors, which is a third of the size."""
    buffer = io.BytesIO()
    Image.fromarray(as_pixels(figure)).quantize(256).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def as_pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return the figure as pixels (height, width, 3)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    with Image.open(buffer) as picture:
        return np.asarray(picture.convert("RGB"))


def _draw_levels(axes: Axes, levels: Sequence[Level]) -> None:
    """Draw dashed lines. Labels of close values move apart, and a thin line ties each label to its value."""
    ordered = sorted(levels, key=lambda level: level.value)
    for level in ordered:
        axes.axhline(level.value, color=level.color, linewidth=1, linestyle="--", zorder=1)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    places = [(level.value - low) / (high - low) for level in ordered]
    for number in range(1, len(places)):
        places[number] = max(places[number], places[number - 1] + _LABEL_GAP)
    limit = _LABELS_UP_TO
    for number in reversed(range(len(places))):
        places[number] = min(places[number], limit)
        limit = places[number] - _LABEL_GAP
    for level, place in zip(ordered, places):
        axes.annotate(
            level.label,
            (1, level.value),
            xycoords=axes.get_yaxis_transform(),
            xytext=(1.06, place),
            textcoords=axes.transAxes,
            fontsize=8,
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": level.color, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0},
        )


def _figure(title: str, size_in: tuple[float, float] = _SIZE_IN) -> tuple[Figure, Axes]:
    with rc_context(_STYLE):
        figure = Figure(size_in, layout="constrained")
        axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    return figure, axes
