"""A loader's state names the views, and a state of an older version still fits."""

from __future__ import annotations

from typing import Any

import pytest

from dali_pipelines.views.identity import views_identity
from dali_pipelines.views.params import PRESETS


def test_states_from_before_turns_fit() -> None:
    """The texts were written by the code whose views had neither vertical flips nor turns."""
    assert views_identity(PRESETS["barlow_twins"].views) == "62cd433bcb8505a1"
    assert views_identity(PRESETS["barlow_twins_32"].views[:1]) == "26c9f695658eb2bd"
    assert views_identity(PRESETS["barlow_twins"].changed(flip_v_p=0, rot90_p=0).views) == "62cd433bcb8505a1"


@pytest.mark.parametrize("changes", [{"flip_v_p": 0.05}, {"rot90_p": 1.0}, {"flip_p": 0.0}, {"size_px": 225}])
def test_other_views_have_another_identity(changes: dict[str, Any]) -> None:
    views = PRESETS["barlow_twins"].views
    assert views_identity(PRESETS["barlow_twins"].changed(**changes).views) != views_identity(views)
