"""What a view is: the parameters of its augmentations, and the presets.

Standard library only, so that a recipe is checked without importing torch or DALI.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Of an encoded image. PIL opens none with more: twice Image.MAX_IMAGE_PIXELS, against decompression bombs.
MOST_PIXELS = 178_956_970
# Of a view, whose float32 pixels are then 200 MB.
MOST_SIZE_PX = 4096


@dataclass(frozen=True)
class Tuning:
    """What changes the speed of DALI's graph. benchmarks/sweep.py measures which values are best on a machine.

    Args:
        hw_decoder_load: Share of the JPEGs that a GPU's decoding hardware takes, where it has any.
        decode: once for all views, or for each view the region that it shows.
        float16: Whether views are handed out in float16.

    Raises:
        ValueError: If a value is out of its range; the message names the field.

    Source:
        0.65 is DALI's own default. GPU: not yet measured.
    """

    hw_decoder_load: float = 0.65
    decode: Literal["once", "region"] = "once"
    float16: bool = False

    def __post_init__(self) -> None:
        _require(self, "hw_decoder_load", 0 <= self.hw_decoder_load <= 1, "0 to 1")
        _require(self, "decode", self.decode in ("once", "region"), "once or region")


@dataclass(frozen=True)
class ViewParams:
    """One random view of an image. The operations run in the order of the fields.

    Args:
        size_px: Height and width of the view, 8 to 4096.
        crop_scale: Range of the crop's area, as a fraction of the image's, in (0, 1].
        crop_ratio: Range of the crop's width / height, drawn log-uniformly.
        interpolation: Of the resize, always antialiased as PIL does.
        flip_p: Probability of a horizontal flip.
        jitter_p: Probability that the four colour steps run at all.
        brightness: Factor drawn from [max(0, 1 - brightness), 1 + brightness].
        contrast: Likewise, around the image's own mean gray.
        saturation: Likewise, around each pixel's gray.
        hue: Shift drawn from [-hue, hue], in turns of the colour wheel, at most 0.5.
        hue_space: Where hues turn. hsv as PIL and torchvision; yiq is a matrix, DALI's own way: faster, and another
            colour (docs/fidelity.md).
        gray_p: Probability of a conversion to gray.
        blur_p: Probability of a Gaussian blur.
        blur_sigma_px: Range of its standard deviation, in pixels of the view.
        solarize_p: Probability that pixel values of 128 and above are inverted.
        channels: 3, or 1 for a view that ends as ITU-R 601 gray, normalised by the averages of mean and std. Other
            numbers are those of the images, such as 5 spectral bands, which have neither jitter nor gray.
        mean: Subtracted per channel from values in [0, 1]; 3 values, or as many as channels are.
        std: Divided by, per channel; likewise.

    Raises:
        ValueError: If a value is out of its range; the message names the field.

    Source:
        Defaults are view a of the official code, facebookresearch/barlowtwins
        main.py:258-276 at 8e8d284, which follows BYOL (Grill et al. 2020, appendix B).
    """

    size_px: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip_p: float = 0.5
    jitter_p: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    hue_space: Literal["hsv", "yiq"] = "hsv"
    gray_p: float = 0.2
    blur_p: float = 1.0
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name.endswith("_p"):
                _require(self, field.name, 0 <= getattr(self, field.name) <= 1, "a probability, 0 to 1")
        _check_finite(self)
        _require(self, "size_px", 8 <= self.size_px <= MOST_SIZE_PX, f"8 to {MOST_SIZE_PX}")
        _require(self, "crop_scale", _is_range(self.crop_scale, 0, 1), "0 < low <= high <= 1")
        _require(
            self,
            "crop_ratio",
            _is_range(self.crop_ratio, 0, 100) and self.crop_ratio[0] >= 0.01,
            "0.01 <= low <= high <= 100",
        )
        _require(self, "blur_sigma_px", _is_range(self.blur_sigma_px, 0, 100), "0 < low <= high <= 100")
        _require(self, "hue", 0 <= self.hue <= 0.5, "0 to 0.5")
        for name in ("brightness", "contrast", "saturation"):
            _require(self, name, 0 <= getattr(self, name) <= 100, "0 to 100")
        _require(self, "interpolation", self.interpolation in ("bicubic", "bilinear"), "bicubic or bilinear")
        _require(self, "hue_space", self.hue_space in ("hsv", "yiq"), "hsv or yiq")
        _check_normalisation(self)


@dataclass(frozen=True)
class EvalParams:
    """The deterministic view for evaluation: resize the shorter side, crop the centre.

    Args:
        size_px: Height and width of the view.
        resize_px: The shorter side after the resize, at least size_px.
        interpolation: Of the resize, always antialiased.
        channels: As in ViewParams.
        mean: Subtracted per channel from values in [0, 1].
        std: Divided by, per channel.

    Source:
        resize 256 and crop 224: facebookresearch/barlowtwins evaluate.py at 8e8d284.
    """

    size_px: int = 224
    resize_px: int = 256
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_finite(self)
        _require(self, "size_px", 1 <= self.size_px <= MOST_SIZE_PX, f"1 to {MOST_SIZE_PX}")
        _require(self, "resize_px", self.resize_px <= 4 * MOST_SIZE_PX, f"at most {4 * MOST_SIZE_PX}")
        _require(self, "resize_px", self.resize_px >= self.size_px, f"at least size_px ({self.size_px})")
        _check_normalisation(self)


def _require(params: ViewParams | EvalParams | Tuning, name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name}: {getattr(params, name)!r} is not allowed; it must be {rule}")


def _check_finite(params: ViewParams | EvalParams) -> None:
    for field in fields(params):
        value = getattr(params, field.name)
        numbers = [each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, float)]
        _require(params, field.name, all(map(math.isfinite, numbers)), "finite")


def _check_normalisation(params: ViewParams | EvalParams) -> None:
    values = 3 if params.channels == 1 else params.channels
    rule = f"{values} values, one for each channel"
    _require(params, "channels", params.channels >= 1, "at least 1")
    _require(params, "mean", len(params.mean) == values, rule)
    _require(params, "std", len(params.std) == values, rule)
    _require(params, "std", min(params.std) >= 1e-6, "at least 1e-6 in every channel")


def _is_range(pair: tuple[float, float], above: float, most: float = float("inf")) -> bool:
    return len(pair) == 2 and above < pair[0] <= pair[1] <= most


@dataclass(frozen=True)
class Preset:
    """The views that a method trains on, and the ratio resize_px / size_px it is evaluated at."""

    views: tuple[ViewParams, ...]
    eval_resize_ratio: float = 256 / 224

    def changed(self, **changes: Any) -> Preset:
        """The same preset with fields of every view changed."""
        return replace(self, views=tuple(replace(view, **changes) for view in self.views))

    def eval_params(self) -> EvalParams:
        """The evaluation view that fits the first training view."""
        view = self.views[0]
        resize_px = round(view.size_px * self.eval_resize_ratio)
        return EvalParams(view.size_px, resize_px, view.interpolation, view.channels, view.mean, view.std)


# View b of the official code: main.py:277-291 at 8e8d284.
_VIEW_A = ViewParams()
_VIEW_B = ViewParams(blur_p=0.1, solarize_p=0.2)

# SwAV (Caron et al. 2020): facebookresearch/swav src/multicropdataset.py:37-94 and scripts/swav_800ep_pretrain.sh at
# 06b1b7c.
_SWAV_GLOBAL = ViewParams(
    crop_scale=(0.14, 1.0),
    interpolation="bilinear",
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    blur_p=0.5,
    std=(0.228, 0.224, 0.225),
)
_SWAV_LOCAL = replace(_SWAV_GLOBAL, size_px=96, crop_scale=(0.05, 0.14))

# DINO (Caron et al. 2021): facebookresearch/dino main_dino.py:108-116 and 419-464 at 7c446df.
_DINO_GLOBAL = (replace(_VIEW_A, crop_scale=(0.4, 1.0)), replace(_VIEW_B, crop_scale=(0.4, 1.0)))
_DINO_LOCAL = replace(_VIEW_A, size_px=96, crop_scale=(0.05, 0.4), blur_p=0.5)

PRESETS: dict[str, Preset] = {
    "barlow_twins": Preset((_VIEW_A, _VIEW_B)),
    # At 32 px a blur of sigma 2 leaves no shape to learn from; the field's CIFAR recipes drop it and
    # evaluate on the whole image.
    "barlow_twins_32": Preset(
        (replace(_VIEW_A, size_px=32, blur_p=0.0), replace(_VIEW_B, size_px=32, blur_p=0.0)),
        eval_resize_ratio=1.0,
    ),
    "swav": Preset((_SWAV_GLOBAL,) * 2 + (_SWAV_LOCAL,) * 6),
    "dino": Preset(_DINO_GLOBAL + (_DINO_LOCAL,) * 8),
}


def resolve_views(views: str | Preset) -> Preset:
    """A preset by name, or the preset itself.

    Raises:
        ValueError: If there is no preset of that name.
    """
    if isinstance(views, Preset):
        return views
    if views not in PRESETS:
        raise ValueError(f"views: there is no preset {views!r}; there are {', '.join(PRESETS)}")
    return PRESETS[views]
