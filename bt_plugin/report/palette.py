"""Colours of classes, however many."""

from __future__ import annotations

import colorsys

from bt_plugin.monitoring.view_pixels import COLORS

# Hues that are far from all before them, whatever their number.
_GOLDEN = 0.618033988749895


def class_colors(count: int) -> list[str]:
    """So many, as #rrggbb; the first are told apart by everybody, later ones by hue and lightness."""
    more = [
        colorsys.hls_to_rgb(number * _GOLDEN % 1, (0.35, 0.5, 0.62)[number % 3], 0.6)
        for number in range(max(0, count - len(COLORS)))
    ]
    return [*COLORS[:count], *("#" + "".join(f"{round(255 * part):02x}" for part in color) for color in more)]
