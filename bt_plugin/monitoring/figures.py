"""The figures of a run, for trackers and the report; drawn by matplotlib, without a screen."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

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

# A phone's width, so that text is read there without a magnifying glass.
_SIZE_IN = (3.6, 2.6)
# Sharp where a pixel of the page is two of the screen's.
_DPI = 160
# Text stays text, in the font of whoever looks; the same figure is the same file.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bt_plugin",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Line = tuple[Sequence[float], Sequence[float]]


def heatmap(c: Array, title: str, signed: bool) -> Figure:
    """C, or a part of it; without signs, small values are told apart too."""
    figure, axes = _figure(title, (_SIZE_IN[0], 3.1))
    norm = Normalize(-1, 1) if signed else PowerNorm(0.5, 0, 1)
    picture = axes.imshow(c, cmap="RdBu_r" if signed else "Reds", norm=norm, interpolation="nearest")
    figure.colorbar(picture, ax=axes)
    axes.set(xticks=[], yticks=[], xlabel="features of view b", ylabel="features of view a")
    return figure


def histogram(snapshot: CorrelationSnapshot) -> Figure:
    """Entries of C, on its diagonal and off it."""
    figure, axes = _figure("entries of C")
    for counts, name, color in (
        (snapshot.diagonal_counts, "on the diagonal", COLORS[1]),
        (snapshot.off_diagonal_counts, "off it", COLORS[0]),
    ):
        axes.stairs(counts / max(1, counts.sum()), BIN_EDGES, label=name, color=color, fill=True, alpha=0.6)
    axes.set(xlim=(-1, 1), ylabel="share")
    axes.legend(frameon=False)
    return figure


def spectrum(values: Mapping[str, Array]) -> Figure:
    """Singular values, of each as parts of its largest."""
    figure, axes = _figure("singular values of embeddings")
    for (name, of_it), color in zip(values.items(), COLORS):
        axes.plot(np.arange(1, len(of_it) + 1), of_it / max(of_it.max(), 1e-12), label=name, color=color)
    axes.set(yscale="log", ylim=(1e-4, 1.5), xlabel="number", ylabel="part of the largest")
    axes.legend(frameon=False)
    return figure


def curves(lines: Mapping[str, Line], *, title: str, log: bool, colors: Sequence[str]) -> Figure:
    """What changes over the steps, a line each; which is which is said beside the figure.

    Args:
        lines: Steps and values by name.
        title: Of the figure.
        log: Whether the values are shown by their logarithm.
        colors: Of the lines, in their order.
    """
    figure, axes = _figure(title)
    for (name, (steps, values)), color in zip(lines.items(), colors):
        axes.plot(steps, values, label=name, color=color, linewidth=1.2, marker="." if len(steps) < 30 else None)
    axes.set_xlabel("step")
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    return figure


def snapshot_figures(snapshot: CorrelationSnapshot, first: CorrelationSnapshot | None = None) -> dict[str, Figure]:
    """All of a snapshot, by names; the spectrum beside that of another one, the run's first."""
    shown = {"first": first.spectrum} if first is not None else {}
    side = len(snapshot.c_first)
    return {
        "cross_correlation": heatmap(snapshot.c_whole, "C: rms of each block", signed=False),
        "cross_correlation_first": heatmap(snapshot.c_first, f"C: its first {side} features", signed=True),
        "correlation_histogram": histogram(snapshot),
        "embedding_spectrum": spectrum({**shown, "now": snapshot.spectrum}),
    }


def as_svg(figure: Figure) -> str:
    """The figure as the text of an SVG file."""
    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file of 256 colours, a third of the size."""
    buffer = io.BytesIO()
    Image.fromarray(as_pixels(figure)).quantize(256).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def as_pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure as (height, width, 3)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    with Image.open(buffer) as picture:
        return np.asarray(picture.convert("RGB"))


def _figure(title: str, size_in: tuple[float, float] = _SIZE_IN) -> tuple[Figure, Axes]:
    with rc_context(_STYLE):
        figure = Figure(size_in, layout="constrained")
        axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    return figure, axes
