"""The recipe's section `views`: the augmentations of the two views."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import create_model

from bt_plugin.config.section import Section
from dali_pipelines.views.params import PRESETS, Preset, ViewParams


class _Changes(Section):
    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


# Every field of ViewParams except channels, each optional: what a recipe changes in a preset.
if TYPE_CHECKING:
    _ViewChanges = _Changes
else:
    _hints = get_type_hints(ViewParams)
    _ViewChanges = create_model(
        "_ViewChanges",
        __base__=_Changes,
        **{name: (hint | None, None) for name, hint in _hints.items() if name != "channels"},
    )


class Views(Section):
    """The augmentations of the two views: a preset, and changes to it."""

    preset: str = "barlow_twins"
    """Named augmentations. `barlow_twins`: those of the paper. `barlow_twins_32`: for images of about 32 px (views of
    32 px, no blur). `barlow_twins_overhead`: for images without top and bottom, such as pathology or satellites (also
    flipped vertically and turned). `barlow_twins_gray`: for gray images, such as X-rays (no saturation, hue or
    conversion to gray)."""
    both: _ViewChanges = _ViewChanges()
    """Changes to both views, such as {size_px: 64}."""
    a: _ViewChanges = _ViewChanges()
    """Changes to the first view alone."""
    b: _ViewChanges = _ViewChanges()
    """Changes to the second view alone."""

    def resolved(self, channels: int) -> Preset:
        """Return the preset with the recipe's changes.

        Args:
            channels: Channels of the images.

        Raises:
            ValueError: If there is no such preset, or a value of a view is out of range. The message begins with the
                key.
        """
        pairs = {name: preset for name, preset in PRESETS.items() if len(preset.views) == 2}
        if self.preset not in pairs:
            raise ValueError(
                f"views.preset: {self.preset!r} is not allowed; it must be a preset of two views: {', '.join(pairs)}"
            )
        preset = pairs[self.preset]
        views = []
        for view, own in zip(preset.views, ("a", "b")):
            changes = self.both.given() | getattr(self, own).given()
            try:
                views.append(replace(view, channels=channels, **changes))
            except ValueError as error:
                raise ValueError(f"views.{own}.{error}") from error
        return replace(preset, views=tuple(views))
