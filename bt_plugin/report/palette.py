"""Colors for any number of classes."""

from __future__ import annotations

import colorsys

from bt_plugin.monitoring.view_pixels import COLORS

# Steps of the golden ratio keep each hue far from all earlier ones, for any number of classes.
_GOLDEN = 0.618033988749895


def class_colors(count: int) -> list[str]:
    """Return one color per class as #rrggbb. The first suit color-blind readers, the rest differ in hue."""
    more = [
        colorsys.hls_to_rgb(number * _GOLDEN % 1, (0.35, 0.5, 0.62)[number % 3], 0.6)
        for number in range(max(0, count - len(COLORS)))
    ]
    return [*COLORS[:count], *("#" + "".join(f"{round(255 * part):02x}" for part in color) for color in more)]
