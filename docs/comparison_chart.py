"""Draw the comparison that the README and the front page of the docs show: python docs/comparison_chart.py.

Every number is read from a record in benchmarks/records. The script writes docs/comparison.png.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

PICTURE = Path(__file__).with_name("comparison.png")
RECORDS = Path(__file__).resolve().parents[1] / "benchmarks" / "records"
STEP = "2026-11-24_step.json"
TRAINING = "2026-11-24_train.json"
OPTIMIZER = "2026-11-24_optimizer.json"
LOADER = "2026-11-22_loader.json"

# The names of the records, as readers know them.
NAMES = {
    "ours": "bt-plugin",
    "fused": "bt-plugin",
    "lightly": "Lightly",
    "official": "Official code",
    "solo-learn": "solo-learn",
    "dali": "DALI (CPU)",
}
_OURS, _THEIRS = "#3949ab", "#c3c7d1"
_INK, _FAINT = "#1f2430", "#667085"


class Panel(NamedTuple):
    """One comparison.

    Attributes:
        title: What is measured.
        detail: Sizes of the measurement.
        unit: Unit of the rates.
        rates: Rate of each contender, more than 0; the first is ours.
    """

    title: str
    detail: str
    unit: str
    rates: dict[str, float]


def main() -> None:
    """Draw docs/comparison.png, 1600 px wide, which is legible at half the width."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "text.color": _INK})
    # Bars of four contenders above, of three below, all equally thick.
    shape = {"height_ratios": [4, 3], "wspace": 0.5, "hspace": 0.52}
    shape |= {"left": 0.15, "right": 0.945, "top": 0.79, "bottom": 0.1}
    figure, axes = plt.subplots(2, 2, figsize=(8, 4.7), dpi=200, facecolor="white", gridspec_kw=shape)
    for axis, panel in zip(axes.flat, panels()):
        draw(axis, panel)
    figure.text(0.025, 0.955, "Speed on two CPU cores", fontsize=14, fontweight="bold", va="center")
    figure.text(0.975, 0.955, "longer bars are faster", fontsize=10, color=_FAINT, ha="right", va="center")
    note = "float32. Loader: Intel Xeon; all else: AMD EPYC. Not yet measured on a GPU."
    figure.text(0.025, 0.03, note, fontsize=9, color=_FAINT, va="center")
    # tests/test_readme.py compares this text with the records, so that an old picture is found.
    figure.savefig(PICTURE, metadata={"Description": description()}, pil_kwargs={"optimize": True})


def description() -> str:
    """Return the numbers of all panels, as the picture keeps them."""
    return json.dumps({panel.title: panel.rates for panel in panels()})


def panels() -> list[Panel]:
    """Read the four comparisons from their records."""
    (photographs,) = (of_a_size for of_a_size in results(LOADER) if of_a_size["size"] == "500x375")
    loaders = {name: statistics.median(rates) for name, rates in photographs["images_per_s"].items()}
    step, training, lars = images_per_s(STEP), images_per_s(TRAINING), updates_per_s(OPTIMIZER)
    return [
        Panel("Training step alone", "ResNet-18, 64 px, batch 64, projector 3 x 2048", "images/s", step),
        Panel("Training from JPEG files", "the same, from files of 500 x 375 px", "images/s", training),
        Panel("LARS alone", "ResNet-50, projector 8192-8192-8192", "updates/s", lars),
        Panel("Loader alone", "two views of 224 px, files of 500 x 375 px", "images/s", named(loaders)),
    ]


def results(record: str) -> Any:
    """Return what a record measured."""
    return json.loads((RECORDS / record).read_text())["results"]


def images_per_s(record: str) -> dict[str, float]:
    """Return the images/s of every contender. Variants of ours have no name here and are left out."""
    return named({name: result["images_per_s"] for name, result in results(record).items()})


def updates_per_s(record: str) -> dict[str, float]:
    """Return the updates/s of every optimizer that is LARS."""
    return named({name: 1 / result["median_s"] for name, result in results(record).items()})


def named(rates: dict[str, float]) -> dict[str, float]:
    """Return the rates under the names that readers know, the fastest first."""
    known = {NAMES[name]: rate for name, rate in rates.items() if name in NAMES}
    return dict(sorted(known.items(), key=lambda item: -item[1]))


def draw(axis: Axes, panel: Panel) -> None:
    """Draw one comparison as horizontal bars, each with its rate at its end."""
    names, rates = list(panel.rates), list(panel.rates.values())
    colors = [_OURS if name == "bt-plugin" else _THEIRS for name in names]
    axis.barh(range(len(names)), rates, height=0.68, color=colors)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, 1.22 * max(rates))
    for place, (name, rate) in enumerate(panel.rates.items()):
        weight = "bold" if name == "bt-plugin" else "normal"
        text = f"{rate:.1f}" if rate < 10 else f"{rate:.0f}"
        axis.text(rate + 0.02 * max(rates), place, text, fontsize=10, fontweight=weight, va="center")
        axis.text(-0.025 * max(rates), place, name, fontsize=9.5, fontweight=weight, va="center", ha="right")
    heading = {"xy": (-0.393, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
    axis.annotate(f"{panel.title}, {panel.unit}", xytext=(0, 21), fontsize=11, fontweight="bold", **heading)
    axis.annotate(panel.detail, xytext=(0, 7), fontsize=9, color=_FAINT, **heading)
    axis.axis("off")


if __name__ == "__main__":
    main()
