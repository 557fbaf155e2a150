"""Draw the metrics without labels next to kNN accuracy, over the epochs of a run: python docs/signs_chart.py.

Every number is read from the newest record of benchmarks/signs.py. The script writes docs/signs.png.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

PICTURE = Path(__file__).with_name("signs.png")
RECORDS = Path(__file__).resolve().parents[1] / "benchmarks" / "records"

_TITLES = {
    "knn_top1": "kNN top-1 (with labels)",
    "view_retrieval_top1": "view retrieval top-1",
    "rankme": "RankMe of embeddings",
    "lidar": "LiDAR of embeddings",
}
_LINE, _BASELINE, _INK, _FAINT = "#3949ab", "#b0413e", "#1f2430", "#667085"


def main() -> None:
    """Draw docs/signs.png, 1600 px wide, which is legible at half the width."""
    runs = json.loads(record().read_text())["runs"]
    plt.rcParams.update({"font.family": "DejaVu Sans", "text.color": _INK, "font.size": 9})
    figure, axes = plt.subplots(1, len(_TITLES), figsize=(8, 2.4), dpi=200, facecolor="white", layout="constrained")
    for axis, metric in zip(axes.flat, _TITLES):
        draw(axis, metric, runs)
    figure.supxlabel("epoch; dashed: calibrated network; dotted: raw pixels", fontsize=8.5, color=_FAINT)
    # tests/test_readme.py compares this text with the record, so that an old picture is found.
    figure.savefig(PICTURE, metadata={"Description": description()}, pil_kwargs={"optimize": True})


def record() -> Path:
    """Return the newest record of benchmarks/signs.py."""
    return max(RECORDS.glob("*_signs.json"))


def description() -> str:
    """Return the numbers of all panels, as the picture keeps them."""
    runs = json.loads(record().read_text())["runs"]
    return json.dumps({metric: [values(run, metric) for run in runs] for metric in _TITLES})


def values(run: dict[str, Any], metric: str) -> list[float]:
    """Return the values of a metric, one for each evaluation of a run."""
    return [line[metric] for line in run["evaluations"]]


def draw(axis: Axes, metric: str, runs: list[dict[str, Any]]) -> None:
    """Draw a metric of all runs. The mean of the calibrated baseline is dashed, raw pixels are dotted."""
    for run in runs:
        shown = values(run, metric)
        axis.plot(range(1, len(shown) + 1), shown, color=_LINE, linewidth=1.2, marker=".", markersize=4)
    axis.axhline(
        fmean(run["baselines"][metric]["calibrated"] for run in runs), color=_BASELINE, linestyle="--", linewidth=1
    )
    if "raw" in runs[0]["baselines"][metric]:
        axis.axhline(runs[0]["baselines"][metric]["raw"], color=_FAINT, linestyle=":", linewidth=1)
    title = _TITLES[metric]
    if metric == "view_retrieval_top1":
        title += f"\nof {runs[0]['view_retrieval_images']:,} images"
    if metric in runs[0]["spearman"]:
        title += f"\nSpearman with kNN {fmean(run['spearman'][metric] for run in runs):.2f}"
    axis.set_title(title, fontsize=8.5)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
