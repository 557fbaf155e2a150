"""Which of the two ways a loader turns hues: in HSV as PIL, or in YIQ as DALI would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dali_pipelines import PRESETS, Preset, TwoViewLoader, ViewParams
from dali_pipelines.views.draws import draw_views
from tests.dali_pipelines import reference
from tests.dali_pipelines.conftest import chosen

HUE_ALONE = ViewParams(
    size_px=96,
    flip_p=0,
    jitter_p=1,
    brightness=0,
    contrast=0,
    saturation=0,
    gray_p=0,
    blur_p=0,
    mean=(0, 0, 0),
    std=(1, 1, 1),
)


@pytest.mark.usefixtures("each_backend")
def test_the_loader_takes_the_one_that_is_asked_for(small_data: Path) -> None:
    """YIQ moves value and saturation too, and is far from PIL."""
    distances = {}
    for space in ("hsv", "yiq"):
        preset = Preset((HUE_ALONE,)).changed(hue_space=space)
        (batch,) = TwoViewLoader(small_data / "train", 36, preset, backend=chosen())
        (draws,) = draw_views(preset.views, 36, 0, 0, 0)
        got = [(255 * view).round().permute(1, 2, 0).numpy().astype(np.uint8) for view in batch.views[0].cpu()]
        photos = [Image.open(small_data / "train" / name) for name in batch.filenames]
        theirs = [reference.view(photo, draws, row, HUE_ALONE) for row, photo in enumerate(photos)]
        distances[space] = reference.distance(got, theirs)[0]
    assert distances["hsv"] < 1
    assert distances["yiq"] > 3


def test_presets_are_exact() -> None:
    assert {view.hue_space for preset in PRESETS.values() for view in preset.views} == {"hsv"}
