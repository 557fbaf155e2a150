"""Views of images that are not red, green and blue."""

from __future__ import annotations

import logging
from dataclasses import replace

from dali_pipelines.views.params import EvalParams, ViewParams

logger = logging.getLogger(__name__)


def views_of_channels(views: tuple[ViewParams, ...], channels: int, is_told: bool) -> tuple[ViewParams, ...]:
    """The views that images of so many channels can have: without colour operations where they have no colours.

    Args:
        views: What is asked for.
        channels: Of the images.
        is_told: Whether this process says what is left out.

    Raises:
        ValueError: If a view has another number of channels.
    """
    for view in views:
        check_channels(view, channels)
    if channels == 3:
        return views
    if is_told:
        logger.warning("the images have %d channels: their views have neither colour jitter nor gray", channels)
    return tuple(replace(view, jitter_p=0.0, gray_p=0.0) for view in views)


def check_channels(params: ViewParams | EvalParams, channels: int) -> None:
    """Raises ValueError if images of so many channels cannot be viewed so."""
    allowed = (1, 3) if channels == 3 else (channels,)
    if params.channels not in allowed:
        raise ValueError(
            f"views: channels {params.channels} is not allowed for images of {channels}; take"
            f" Preset.changed(channels={channels}, mean=..., std=...) with {channels} values each"
        )
