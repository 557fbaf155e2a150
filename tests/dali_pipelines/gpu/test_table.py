"""The table of a view's parameters, against its draws and the native backend's weights of a blur."""

from __future__ import annotations

import numpy as np
import pytest

from dali_pipelines.gpu import table as columns
from dali_pipelines.gpu.table import view_table
from dali_pipelines.native.stream import gaussian
from dali_pipelines.views.draws import COLOR_STEPS, draw_views
from dali_pipelines.views.normalization import scale_and_offset
from dali_pipelines.views.orientation import orientation
from dali_pipelines.views.params import PRESETS, ViewParams
from dali_pipelines.views.yiq import hue_matrix

MANY = 3000


@pytest.mark.parametrize(
    ("size_px", "sigmas"), [(224, (0.1, 2.0)), (32, (0.01, 30.0)), (8, (0.1, 9.0)), (96, (2.0, 2.0))]
)
def test_weights_are_those_of_gaussian(size_px: int, sigmas: tuple[float, float]) -> None:
    view = ViewParams(size_px=size_px, blur_sigma_px=sigmas)
    draws = draw_views((view,), MANY, size_px)[0]
    for row, sigma_px in zip(view_table(draws, view).rows, draws.blur_sigma_px):
        taps = gaussian(float(sigma_px), size_px)
        radius = taps.size // 2
        assert row[columns.RADIUS] == radius
        assert (row[columns.TAPS : columns.TAPS + radius + 1] == taps[radius:]).all()
        assert (taps == taps[::-1]).all(), "half of them is enough"
        assert not row[columns.TAPS + radius + 1 :].any()


@pytest.mark.parametrize("preset", PRESETS)
def test_rows_are_the_draws(preset: str) -> None:
    for view in PRESETS[preset].views:
        draws = draw_views((view,), 64, 1)[0]
        table = view_table(draws, view)
        rows = table.rows
        assert np.shares_memory(rows, table.values)
        assert table.values.dtype == np.float32
        assert (rows[:, columns.FLIP] == orientation(draws).mirrored).all()
        assert (rows[:, columns.GRAY] == draws.gray).all()
        assert (rows[:, columns.SOLARIZE] == draws.solarize).all()
        assert ((rows[:, columns.RADIUS] > 0) == draws.blur).all()
        assert (rows[:, columns.STEP_COUNT] == 4 * draws.jitter).all()
        assert (rows[:, columns.STEPS : columns.STEPS + 4] == draws.color_order).all()
        for row, drawn in zip(rows[draws.jitter], draws.color_order[draws.jitter]):
            assert COLOR_STEPS[drawn[int(row[columns.CONTRAST_AT])]] == "contrast"
        assert (rows[~draws.jitter, columns.CONTRAST_AT] == 0).all()
        for number, name in enumerate(COLOR_STEPS):
            unit = 6 if name == "hue" else 1
            assert (rows[:, columns.FACTORS + number] == unit * getattr(draws, name)).all()
        assert (table.values[rows.size :] == np.concatenate(scale_and_offset(view))).all()


def test_every_batch_of_a_view_has_the_same_width() -> None:
    """The kernels are compiled for it. Each row begins at a multiple of 16 bytes."""
    view = ViewParams(blur_sigma_px=(0.1, 2.0))
    widths = {view_table(draw_views((view,), 4, seed)[0], view).rows.shape[1] for seed in range(20)}
    assert widths == {32}
    assert view_table(draw_views((view,), 0, 0)[0], view).rows.shape == (0, 32)


def test_hue_in_yiq_is_a_matrix() -> None:
    view = ViewParams(hue_space="yiq", hue=0.5)
    draws = draw_views((view,), 16, 3)[0]
    rows = view_table(draws, view).rows
    for row, turns in zip(rows[draws.jitter], draws.hue[draws.jitter]):
        assert (row[columns.HUE_MATRIX : columns.TAPS] == hue_matrix(turns).ravel()).all()
    assert not rows[~draws.jitter, columns.HUE_MATRIX : columns.TAPS].any()


def test_what_a_batch_needs() -> None:
    plain = ViewParams(jitter_p=0, gray_p=0, blur_p=0)
    for changes, needed in (({}, (0, 0)), ({"gray_p": 1}, (1, 0)), ({"jitter_p": 1}, (1, 0)), ({"blur_p": 1}, (0, 1))):
        view = ViewParams(**{"jitter_p": 0, "gray_p": 0, "blur_p": 0, **changes})  # type: ignore[arg-type]
        table = view_table(draw_views((view,), 8, 0)[0], view)
        assert (table.has_colors, table.has_blur) == needed
    assert view_table(draw_views((plain,), 8, 0)[0], plain).rows.shape[1] == 24
