from __future__ import annotations

from typing import Any

import pytest

from dali_pipelines.views.params import PRESETS, EvalParams, ViewParams, resolve_views


def test_the_preset_is_the_official_transform() -> None:
    """facebookresearch/barlowtwins main.py:258-291 at 8e8d284."""
    a, b = PRESETS["barlow_twins"].views
    common = {
        "size_px": 224,
        "crop_scale": (0.08, 1.0),
        "crop_ratio": (3 / 4, 4 / 3),
        "interpolation": "bicubic",
        "flip_p": 0.5,
        "jitter_p": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.2,
        "hue": 0.1,
        "gray_p": 0.2,
        "blur_sigma_px": (0.1, 2.0),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    for view, blur_p, solarize_p in ((a, 1.0, 0.0), (b, 0.1, 0.2)):
        assert {name: getattr(view, name) for name in common} == common
        assert (view.blur_p, view.solarize_p) == (blur_p, solarize_p)


def test_the_small_preset_has_no_blur() -> None:
    assert {view.blur_p for view in PRESETS["barlow_twins_32"].views} == {0.0}
    assert PRESETS["barlow_twins_32"].eval_params() == EvalParams(32, 32, "bicubic")


def test_evaluation_follows_the_views() -> None:
    assert PRESETS["barlow_twins"].eval_params() == EvalParams(224, 256, "bicubic")
    assert PRESETS["barlow_twins"].changed(size_px=64, channels=1).eval_params() == EvalParams(64, 73, "bicubic", 1)


@pytest.mark.parametrize(
    "change",
    [
        {"flip_p": 1.5},
        {"flip_v_p": -0.1},
        {"rot90_p": 1.1},
        {"size_px": 2},
        {"crop_scale": (0.5, 0.2)},
        {"crop_scale": (0.5, 1.2)},
        {"crop_ratio": (0.0, 1.0)},
        {"blur_sigma_px": (0.0, 1.0)},
        {"hue": 0.6},
        {"brightness": -0.1},
        {"interpolation": "nearest"},
        {"channels": 0},
        {"mean": (0.5,) * 4},
        {"hue_space": "lab"},
        {"std": (1.0, 1.0, 0.0)},
    ],
)
def test_a_value_out_of_range_is_named(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=f"^{name}: "):
        ViewParams(**change)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ValueError, match="'barlow'; use one of barlow_twins, barlow_twins_32"):
        resolve_views("barlow")
    with pytest.raises(ValueError, match="resize_px: 10"):
        EvalParams(20, 10)


def test_presets_change_only_what_they_name() -> None:
    plain = PRESETS["barlow_twins"]
    assert PRESETS["barlow_twins_overhead"] == plain.changed(flip_v_p=0.5, rot90_p=0.75)
    assert PRESETS["barlow_twins_gray"] == plain.changed(saturation=0.0, hue=0.0, gray_p=0.0)
    assert {view.flip_p for view in PRESETS["barlow_twins_overhead"].views} == {0.5}, "eight equal orientations"
    for name in ("barlow_twins", "barlow_twins_32", "barlow_twins_gray", "swav", "dino"):
        assert {(view.flip_v_p, view.rot90_p) for view in PRESETS[name].views} == {(0, 0)}
