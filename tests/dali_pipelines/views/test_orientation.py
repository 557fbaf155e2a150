"""Flips and turns move pixels and change none: PIL, NumPy, the native backend and DALI agree to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dali_pipelines import PRESETS, Backend
from dali_pipelines.backend import BackendName
from dali_pipelines.pil.transform import view_of
from dali_pipelines.plans import Plan
from dali_pipelines.sources import array_source
from dali_pipelines.streams import view_stream
from dali_pipelines.views.draws import ViewDraws, draw_views
from dali_pipelines.views.orientation import orientation, turned
from dali_pipelines.views.params import ViewParams

# Every combination of both flips and four turns: each of the eight orientations twice.
COMBINATIONS = [(flip, flip_v, turns) for flip in (False, True) for flip_v in (False, True) for turns in range(4)]
N = len(COMBINATIONS)
SIZE = 24
TURNED = ViewParams(size_px=SIZE, flip_v_p=0.5, rot90_p=0.75)
# The whole image, and nothing but flips and turns. Its values are whole levels.
PLAIN = replace(
    TURNED, crop_scale=(1, 1), crop_ratio=(1, 1), jitter_p=0, gray_p=0, blur_p=0, mean=(0,) * 3, std=(1 / 255,) * 3
)
ALL_STEPS = replace(TURNED, gray_p=0.3, blur_p=0.6, solarize_p=0.4)


def combined(draws: ViewDraws) -> ViewDraws:
    """Return the draws with one combination of flips and turns per sample."""
    flip, flip_v, turns = (np.array(values) for values in zip(*COMBINATIONS))
    return replace(draws, flip=flip, flip_v=flip_v, quarter_turns=turns.astype(np.uint8))


def images() -> NDArray[np.uint8]:
    """Return images without any symmetry."""
    return np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)


def by_pil(image: NDArray[np.uint8], flip: bool, flip_v: bool, turns: int) -> NDArray[np.uint8]:
    x = Image.fromarray(image)
    if flip:
        x = x.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if flip_v:
        x = x.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return np.asarray(x.rotate(90 * turns))


def by_numpy(image: NDArray[Any], flip: bool, flip_v: bool, turns: int) -> NDArray[Any]:
    x = image[:, ::-1] if flip else image
    return np.rot90(x[::-1] if flip_v else x, turns)


def streamed(name: BackendName, view: ViewParams, draws: ViewDraws, pixels: NDArray[np.uint8]) -> Tensor:
    if name == "dali":
        pytest.importorskip("nvidia.dali")

    def plans() -> Iterator[Plan]:
        yield Plan(np.arange(len(pixels)), (draws,))

    backend = Backend(name, device="cpu", num_threads=1).resolve()
    stream = view_stream(array_source(pixels), (view,), plans=plans(), batch_size=len(pixels), backend=backend)
    ((_, (views,)),) = list(stream)
    return views


def levels(views: Tensor) -> NDArray[np.uint8]:
    whole = views.permute(0, 2, 3, 1).round()
    assert (views.permute(0, 2, 3, 1) - whole).abs().max() < 1e-3, "whole levels"
    return whole.to(torch.uint8).numpy()


def test_eight_orientations_are_pils_and_numpys() -> None:
    (draws,) = draw_views((TURNED,), N, 0)
    found = set()
    for row, (image, combination) in enumerate(zip(images(), COMBINATIONS)):
        pixels, mirrored = turned(image, combined(draws), row)
        assert pixels.flags.c_contiguous
        ours = pixels[:, ::-1] if mirrored else pixels
        np.testing.assert_array_equal(ours, by_numpy(image, *combination))
        np.testing.assert_array_equal(ours, by_pil(image, *combination))
        bands = np.concatenate([image, image[:, :, :2] / np.float32(3)], axis=2)
        of_bands, _ = turned(bands, combined(draws), row)
        np.testing.assert_array_equal(of_bands[:, :, :3], pixels)
        np.testing.assert_array_equal(of_bands[:, ::-1] if mirrored else of_bands, by_numpy(bands, *combination))
        found.add(tuple(bool(each[row]) for each in orientation(combined(draws))))
    assert len(found) == 8


@pytest.mark.parametrize("name", ["native", "dali", "pil"])
def test_views_are_turned_images(name: str) -> None:
    draws, pixels = combined(draw_views((PLAIN,), N, 0)[0]), images()
    if name == "pil":
        views = torch.stack([view_of(Image.fromarray(each), PLAIN, draws, row) for row, each in enumerate(pixels)])
    else:
        views = streamed(name, PLAIN, draws, pixels)  # type: ignore[arg-type]
    expected = [by_numpy(image, *combination) for image, combination in zip(pixels, COMBINATIONS)]
    np.testing.assert_array_equal(levels(views), np.stack(expected))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("changes", [{"rot90_p": 0.0}, {"flip_v_p": 0.0}])
def test_dalis_graph_has_only_what_a_view_needs(changes: dict[str, float]) -> None:
    """DALI warns of inputs that a graph does not use, and the callback computes them in vain."""
    view = replace(PLAIN, **changes)  # type: ignore[arg-type]
    (draws,) = draw_views((view,), N, 0)
    views = streamed("dali", view, draws, images())
    drawn = zip(images(), draws.flip, draws.flip_v, draws.quarter_turns)
    np.testing.assert_array_equal(levels(views), np.stack([by_numpy(*each) for each in drawn]))
    assert draws.flip_v.any() or draws.quarter_turns.any()


@pytest.mark.parametrize("view", [ALL_STEPS, replace(ALL_STEPS, hue_space="yiq"), replace(ALL_STEPS, channels=1)])
def test_all_steps_are_those_of_the_turned_crop(view: ViewParams) -> None:
    """With the same draws, the native backend, DALI's graph and PIL are as near to each other as without turns."""
    smooth = np.random.default_rng(1).normal(size=(N, 6, 6, 3)).repeat(8, axis=1).repeat(8, axis=2)
    pixels = np.clip(128 + 60 * smooth, 0, 255).astype(np.uint8)
    draws = combined(draw_views((view,), N, 3)[0])
    native, dali = (streamed(name, view, draws, pixels) for name in ("native", "dali"))  # type: ignore[arg-type]
    pil = torch.stack([view_of(Image.fromarray(each), view, draws, row) for row, each in enumerate(pixels)])
    # In levels, with the bounds of test_views_are_those_of_dalis_graph and test_pixels_are_the_loaders.
    differences = [(native - other).abs() * 255 * 0.226 for other in (dali, pil)]
    assert differences[0].mean() <= 0.35
    assert differences[0].amax() <= 40
    assert differences[1].mean((1, 2, 3)).median() < 0.8
    assert differences[1].mean((1, 2, 3)).amax() < 3.5


def test_the_overhead_preset_has_eight_equal_orientations() -> None:
    from scipy import stats

    for draws in draw_views(PRESETS["barlow_twins_overhead"].views, 20_000, 7):
        _, counts = np.unique(np.stack(orientation(draws)), axis=1, return_counts=True)
        assert len(counts) == 8
        assert stats.chisquare(counts).pvalue > 1e-3
