"""Fit the package's model of a network (bt_plugin.planning.network) to measured collectives."""

from __future__ import annotations

from collections.abc import Sequence

from bt_plugin.planning.network import Network


def fitted(points: Sequence[tuple[float, float, float]]) -> Network:
    """Fit the network of ranks on one machine by least relative squares.

    Args:
        points: Measurements (hops, bytes that all ranks send together, seconds).
    """
    # The equations are seconds = hops * latency + sent * per_byte. Each is divided by its seconds.
    rows = [(hops / s, sent / s) for hops, sent, s in points]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = (sum(row[i] for row in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    return Network((a * bb - b * ab) / determinant, determinant / (b * aa - a * ab), is_shared=True)
