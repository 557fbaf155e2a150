"""Draw the random numbers of the views on the host, with NumPy.

DALI has its own random operators. They are not used, so that a batch is a pure function of (seed, epoch, step, slot):

- A resume needs no generator state.
- Ranks need no generators of their own.
- All implementations of the views can use the same random numbers, and can be compared pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.views.params import ViewParams

# torchvision.transforms.RandomResizedCrop.get_params gives up after ten tries and crops the center.
CROP_TRIES = 10
COLOR_STEPS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class ViewDraws:
    """The random numbers of one view, for a batch of n samples.

    Shape:
        - crop_area: (n, 10) float64, fraction of the image's area, for each try in order.
        - crop_ratio: (n, 10) float64, width / height, for each try in order.
        - crop_position: (n, 2) float64 in [0, 1), vertical and horizontal.
        - flip, flip_v, jitter, gray, blur, solarize: (n,) bool.
        - quarter_turns: (n,) uint8, number of turns by 90 degrees counter-clockwise, 0 to 3, after both flips.
        - brightness, contrast, saturation, hue: (n,) float32.
        - color_order: (n, 4) uint8, indices into COLOR_STEPS, in the order of the steps.
        - blur_sigma_px: (n,) float32, in px of the view.
    """

    crop_area: NDArray[np.float64]
    crop_ratio: NDArray[np.float64]
    crop_position: NDArray[np.float64]
    flip: NDArray[np.bool_]
    flip_v: NDArray[np.bool_]
    quarter_turns: NDArray[np.uint8]
    jitter: NDArray[np.bool_]
    color_order: NDArray[np.uint8]
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]
    saturation: NDArray[np.float32]
    hue: NDArray[np.float32]
    gray: NDArray[np.bool_]
    blur: NDArray[np.bool_]
    blur_sigma_px: NDArray[np.float32]
    solarize: NDArray[np.bool_]

    def rows(self, rows: slice) -> ViewDraws:
        """Return the random numbers of some of the samples."""
        return ViewDraws(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def draw_views(views: tuple[ViewParams, ...], n: int, *key: int) -> tuple[ViewDraws, ...]:
    """Draw the random numbers of every view of n samples.

    Args:
        views: Parameters of the views.
        n: Number of samples of the global batch. Each rank uses its own rows, so the random numbers of a sample do not
            depend on the number of ranks.
        *key: Integers that identify the batch, each 0 or more, such as (seed, epoch, step).
    """
    rng = np.random.default_rng(key)
    drawn = [_draw_view(view, n, rng) for view in views]
    # These are drawn after all others, so that runs from before they existed keep their random numbers.
    return tuple(_with_turns(draws, view, rng) for draws, view in zip(drawn, views))


def active_steps(view: ViewParams) -> tuple[str, ...]:
    """Return the color steps that change something, by their names: those of a strength above 0.

    Args:
        view: Parameters of the view.
    """
    return tuple(name for name in COLOR_STEPS if getattr(view, name) > 0) if view.jitter_p > 0 else ()


def _draw_view(view: ViewParams, n: int, rng: np.random.Generator) -> ViewDraws:
    def factor(strength: float) -> NDArray[np.float32]:
        return rng.uniform(max(0.0, 1 - strength), 1 + strength, n).astype(np.float32)

    low, high = np.log(view.crop_ratio)
    return ViewDraws(
        crop_area=rng.uniform(*view.crop_scale, (n, CROP_TRIES)),
        crop_ratio=np.exp(rng.uniform(low, high, (n, CROP_TRIES))),
        crop_position=rng.random((n, 2)),
        flip=rng.random(n) < view.flip_p,
        flip_v=np.zeros(n, dtype=np.bool_),
        quarter_turns=np.zeros(n, dtype=np.uint8),
        jitter=rng.random(n) < view.jitter_p,
        color_order=np.argsort(rng.random((n, len(COLOR_STEPS))), axis=1).astype(np.uint8),
        brightness=factor(view.brightness),
        contrast=factor(view.contrast),
        saturation=factor(view.saturation),
        hue=rng.uniform(-view.hue, view.hue, n).astype(np.float32),
        gray=rng.random(n) < view.gray_p,
        blur=rng.random(n) < view.blur_p,
        blur_sigma_px=rng.uniform(*view.blur_sigma_px, n).astype(np.float32),
        solarize=rng.random(n) < view.solarize_p,
    )


def _with_turns(draws: ViewDraws, view: ViewParams, rng: np.random.Generator) -> ViewDraws:
    n = len(draws.flip)
    flip_v = rng.random(n) < view.flip_v_p
    is_turned = rng.random(n) < view.rot90_p
    return replace(draws, flip_v=flip_v, quarter_turns=(is_turned * rng.integers(1, 4, n)).astype(np.uint8))
