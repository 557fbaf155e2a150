"""The accuracies in a run's summary as text, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

# Two-sided 95 % quantile of the normal distribution.
_Z = 1.959964


class Metric(NamedTuple):
    """An accuracy that a summary has for several networks.

    Args:
        name: Its name in text.
        images: Key of the number of images that it was measured on.
    """

    name: str
    images: str


METRICS = {
    "knn_top1": Metric("kNN top-1", "val_images"),
    "linear_top1": Metric("linear top-1", "val_images"),
    "view_retrieval_top1": Metric("view retrieval top-1", "view_retrieval_images"),
}
# The calibrated network is the untrained one with BatchNorm statistics re-estimated on training images.
NETWORKS = {
    "raw": "raw pixels",
    "untrained": "untrained network",
    "calibrated": "calibrated network",
    "initialized": "network of model.init",
    "pretrained": "pretrained network",
}


class AccuracyTable(NamedTuple):
    """A table of text.

    Args:
        columns: Name of each accuracy, and its number of images as "of 1,560 images", empty if it is not known.
        rows: Name and cells of each network.
    """

    columns: list[tuple[str, str]]
    rows: list[tuple[str, list[str]]]


def accuracy_table(summary: Mapping[str, Any]) -> AccuracyTable:
    """Return the accuracies that a summary has, by network. The table has no columns if there are none."""
    known = {key: metric for key, metric in METRICS.items() if summary.get(key)}
    columns = []
    for metric in known.values():
        images = summary.get(metric.images)
        columns.append((metric.name, "" if images is None else f"of {images:,} images"))
    rows = [
        (label, [accuracy_text(summary, key, network) for key in known])
        for network, label in NETWORKS.items()
        if any(network in summary[key] for key in known)
    ]
    return AccuracyTable(columns, rows)


def accuracy_text(summary: Mapping[str, Any], key: str, network: str) -> str:
    """Return an accuracy of a network with its 95 % interval, or "-" if the summary has none.

    Summaries of earlier versions lack the number of images. Their accuracies have no interval.

    Examples:
        >>> accuracy_text({"knn_top1": {"raw": 0.5}, "val_images": 100}, "knn_top1", "raw")
        '50.0% (40.4% to 59.6%)'
    """
    share, images = (summary.get(key) or {}).get(network), summary.get(METRICS[key].images)
    if share is None:
        return "-"
    if images is None:
        return f"{share:.1%}"
    return with_interval(share, wilson(share * images, images))


def with_interval(share: float, interval: tuple[float, float]) -> str:
    """Return a fraction of 1 and its interval in percent."""
    return f"{share:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a fraction. It covers the choice of the images only, not that of a seed.

    Args:
        hits: Number of successes, 0 to n.
        n: Number of trials, 1 or more.

    Source:
        Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.
    """
    share = hits / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    # In exact arithmetic 0 and 1 are bounds of their own intervals. Rounding must not leave them outside.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
