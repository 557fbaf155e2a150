"""The draws have the distributions that torchvision's transforms have, and no correlation that they should not."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from dali_pipelines.views.crop_windows import crop_window
from dali_pipelines.views.draws import COLOR_STEPS, ViewDraws, draw_views
from dali_pipelines.views.params import PRESETS, ViewParams

N = 20_000
VIEW = ViewParams(flip_p=0.3, flip_v_p=0.4, rot90_p=0.6, jitter_p=0.8, gray_p=0.2, blur_p=0.1, solarize_p=0.25)


@pytest.fixture(scope="module")
def draws() -> ViewDraws:
    return draw_views((VIEW,), N, 7)[0]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("crop_area", 0.08, 1.0),
        ("crop_position", 0, 1),
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
        ("blur_sigma_px", 0.1, 2.0),
    ],
)
def test_ranges_are_uniform(draws: ViewDraws, name: str, low: float, high: float) -> None:
    values = getattr(draws, name).reshape(N, -1)[:, 0]
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_crop_ratio_is_log_uniform(draws: ViewDraws) -> None:
    low, high = np.log(VIEW.crop_ratio)
    assert stats.kstest(np.log(draws.crop_ratio[:, 0]), stats.uniform(low, high - low).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", ["flip", "flip_v", "jitter", "gray", "blur", "solarize"])
def test_probabilities(draws: ViewDraws, name: str) -> None:
    hits = int(getattr(draws, name).sum())
    assert stats.binomtest(hits, N, getattr(VIEW, f"{name}_p")).pvalue > 1e-3


def test_turns_are_equally_likely(draws: ViewDraws) -> None:
    counts = np.bincount(draws.quarter_turns, minlength=4)
    assert stats.chisquare(counts, [N * 0.4, *[N * 0.2] * 3]).pvalue > 1e-3


def test_turns_leave_the_other_random_numbers_as_they_were() -> None:
    """The numbers were drawn by the code that had no turns. A run that was started with it resumes with its views."""
    changes: dict[str, Any] = {"flip_v_p": 0.5, "rot90_p": 0.75}
    for preset in (PRESETS["barlow_twins"], PRESETS["barlow_twins"].changed(**changes)):
        a, b = draw_views(preset.views, 2, 3, 1, 4)
        assert a.crop_area.sum() == pytest.approx(10.223358908205624, abs=1e-12)
        assert a.blur_sigma_px.tolist() == [1.0979729890823364, 1.9404972791671753]
        assert b.crop_area[0, :3].tolist() == [0.189739211365128, 0.8610572251071744, 0.7105181833873387]
        assert b.crop_position.sum() == pytest.approx(1.7250181514477054, abs=1e-12)
        assert (b.flip.tolist(), b.jitter.tolist(), b.blur.tolist()) == ([False, True], [False, True], [False, True])
        assert b.color_order[:, 0].tolist() == [3, 1]
        assert b.hue.tolist() == [-0.09245870262384415, -0.073661670088768]
        assert b.blur_sigma_px.tolist() == [0.8823970556259155, 0.8359969854354858]


def test_every_order_of_the_color_steps_is_as_likely(draws: ViewDraws) -> None:
    _, counts = np.unique(draws.color_order, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    assert (np.sort(draws.color_order, axis=1) == np.arange(len(COLOR_STEPS))).all()


def test_views_steps_epochs_and_seeds_draw_independently() -> None:
    views = PRESETS["barlow_twins_overhead"].views
    a, b = draw_views(views, N, 0, 0, 0)
    others = [b] + [draw_views(views, N, *key)[0] for key in ((0, 0, 1), (0, 1, 0), (1, 0, 0))]
    for other in others:
        for field in fields(ViewDraws):
            if field.name in ("blur", "solarize", "color_order"):
                continue  # always true or false in one of the views; argsort is covered by its order
            first, second = (getattr(draws, field.name).reshape(N, -1)[:, 0].astype(float) for draws in (a, other))
            assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(N), field.name


def test_ranks_draw_independently() -> None:
    """Each takes its rows of the global batch, step after step."""
    ranks: list[dict[str, list[float]]] = [{}, {}]
    for step in range(N // 8):
        for draws in draw_views((VIEW,), 16, 0, 0, step):
            for rank in range(2):
                part = draws.rows(slice(8 * rank, 8 * rank + 8))
                for field in fields(ViewDraws):
                    ranks[rank].setdefault(field.name, []).extend(getattr(part, field.name).reshape(8, -1)[:, 0])
    for name in ranks[0]:
        first, second = (np.array(rank[name], dtype=float) for rank in ranks)
        assert len(first) == N
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(N), name


def test_the_same_key_draws_the_same() -> None:
    first, second = (draw_views((VIEW,), 16, 3, 1, 4)[0] for _ in range(2))
    for field in fields(ViewDraws):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))


def test_rows_are_a_ranks_part(draws: ViewDraws) -> None:
    part = draws.rows(slice(4, 6))
    np.testing.assert_array_equal(part.hue, draws.hue[4:6])
    assert part.crop_area.shape == (2, 10)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 300), (90, 300)])
def test_crops_are_distributed_as_torchvisions(draws: ViewDraws, height: int, width: int) -> None:
    """Area, aspect ratio and position of what is really cut out, its fallback for narrow images included."""
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    transform = RandomResizedCrop(224, VIEW.crop_scale, VIEW.crop_ratio)
    theirs = np.array([transform.get_params(image, transform.scale, transform.ratio) for _ in range(N)])
    ours = np.array([crop_window(height, width, draws, row, VIEW.crop_ratio) for row in range(N)])
    for name, of in {
        "area": lambda window: window[:, 2] * window[:, 3],
        "ratio": lambda window: window[:, 3] / window[:, 2],
        "top": lambda window: window[:, 0],
        "left": lambda window: window[:, 1],
        "bottom": lambda window: window[:, 0] + window[:, 2],
        "right": lambda window: window[:, 1] + window[:, 3],
    }.items():
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 1e-3, name
