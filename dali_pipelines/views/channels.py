"""Adapt the views to images that are not RGB."""

from __future__ import annotations

import logging
from dataclasses import replace

from dali_pipelines.views.params import EvalParams, ViewParams

logger = logging.getLogger(__name__)


def views_of_channels(views: tuple[ViewParams, ...], channels: int, is_told: bool) -> tuple[ViewParams, ...]:
    """Return the views for images with this number of channels, without operations on colors unless there are 3.

    Saturation, hue and gray are left out. Brightness and contrast stay: they change each channel by itself.

    Args:
        views: Requested views.
        channels: Number of channels of the images.
        is_told: Whether this process logs the operations that are left out.

    Raises:
        ValueError: If a view has another number of channels.
    """
    for view in views:
        check_channels(view, channels)
    if channels == 3:
        return views
    with_colors = any(view.gray_p > 0 or (view.jitter_p > 0 and (view.saturation or view.hue)) for view in views)
    if is_told and with_colors:
        logger.warning(
            "the images have %d channels, so saturation, hue and gray are left out of their views; brightness and"
            " contrast change each channel by itself", channels,
        )  # fmt: skip
    return tuple(replace(view, saturation=0.0, hue=0.0, gray_p=0.0) for view in views)


def check_channels(params: ViewParams | EvalParams, channels: int) -> None:
    """Raise if a view has the wrong number of channels for the images.

    Args:
        params: Parameters of the view.
        channels: Number of channels of the images.

    Raises:
        ValueError: If the view's channels are not those of the images, or 1 for a gray view of RGB images.
    """
    allowed = (1, 3) if channels == 3 else (channels,)
    if params.channels not in allowed:
        raise ValueError(
            f"views: channels {params.channels} is not allowed for images of {channels} channels; use"
            f" Preset.changed(channels={channels}, mean=..., std=...) with {channels} values each"
        )
