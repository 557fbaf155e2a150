"""The parameters of a view's augmentations, and the presets.

This module imports only the standard library, so that a recipe can be checked without importing torch or DALI.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The limit for an encoded image: twice Image.MAX_IMAGE_PIXELS. PIL opens no larger one, against decompression bombs.
MOST_PIXELS = 178_956_970
# The limit for a view. Its float32 pixels then need 200 MB.
MOST_SIZE_PX = 4096


@dataclass(frozen=True)
class Tuning:
    """The settings that change the speed of DALI's graph. benchmarks/sweep.py measures which values are best.

    Args:
        hw_decoder_load: Share of the JPEGs that the GPU's decoding hardware decodes, if it has any, 0 to 1.
        decode: Decoding: "once" decodes the whole image once for all views, "region" decodes each view's crop.
        float16: Whether the views are float16 instead of float32.

    Raises:
        ValueError: If a value is out of range; the message names the field.

    Source:
        0.65 is DALI's own default. The values are not yet measured on a GPU.
    """

    hw_decoder_load: float = 0.65
    decode: Literal["once", "region"] = "once"
    float16: bool = False

    def __post_init__(self) -> None:
        _require(self, "hw_decoder_load", 0 <= self.hw_decoder_load <= 1, "0 to 1")
        _require(self, "decode", self.decode in ("once", "region"), "once or region")


@dataclass(frozen=True, kw_only=True)
class ViewParams:
    """The parameters of one random view, given by name. The operations run in the order of the fields.

    Args:
        size_px: Height and width of the view, 8 to 4096 px.
        crop_scale: Range of the crop's area, as a fraction of the image's area, in (0, 1].
        crop_ratio: Range of the crop's width / height, in [0.01, 100]. The ratio is drawn log-uniformly.
        interpolation: Interpolation of the resize. It is always antialiased, as in PIL.
        flip_p: Probability of a horizontal flip.
        flip_v_p: Probability of a vertical flip.
        rot90_p: Probability of a turn by 90, 180 or 270 degrees, each equally likely.
        jitter_p: Probability of color jitter: brightness, contrast, saturation and hue, in random order.
        brightness: Strength of the brightness step, 0 to 100. The factor is drawn from [max(0, 1 - brightness),
            1 + brightness].
        contrast: Strength of the contrast step, 0 to 100. The factor is drawn as for brightness, and scales the
            distance to the image's mean gray; without RGB, to each channel's own mean.
        saturation: Strength of the saturation step, 0 to 100. The factor is drawn as for brightness, and scales the
            distance to each pixel's gray.
        hue: Strength of the hue step, 0 to 0.5. The shift is drawn from [-hue, hue], in turns of the color wheel.
        hue_space: Color space of the hue step. hsv matches PIL and torchvision. yiq is DALI's own matrix; it is faster
            and gives other colors (docs/fidelity.md).
        gray_p: Probability of a conversion to gray.
        blur_p: Probability of a Gaussian blur.
        blur_sigma_px: Range of the blur's standard deviation, in px of the view, in (0, 100].
        solarize_p: Probability of solarization, which inverts pixel values of 128 and above; in float32, above 127.5.
        channels: Number of channels of the view. 3 is RGB. 1 is ITU-R 601 gray, normalized with the averages of mean
            and std. For images with other channels, such as 5 spectral bands, it is their number; such views have
            brightness and contrast, but neither saturation, hue nor gray.
        mean: Mean that is subtracted from each channel, whose values are in [0, 1]. One value per channel; 3 for gray.
        std: Standard deviation that each channel is divided by, at least 1e-6. One value per channel; 3 for gray.

    Raises:
        ValueError: If a value is out of range; the message names the field.

    Source:
        The defaults are view a of the official code, facebookresearch/barlowtwins
        main.py:258-276 at 8e8d284, which follows BYOL (Grill et al. 2020, appendix B).

    Examples:
        >>> preset = Preset((ViewParams(size_px=96), ViewParams(size_px=96, blur_p=0.1, solarize_p=0.2)))
        >>> loader = TwoViewLoader("images/", batch_size_per_rank=256, views=preset)
    """

    size_px: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip_p: float = 0.5
    flip_v_p: float = 0.0
    rot90_p: float = 0.0
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
    """The parameters of the evaluation view: resize the shorter side, then crop the center. Nothing is random.

    Args:
        size_px: Height and width of the view, 1 to 4096 px.
        resize_px: Shorter side after the resize, size_px to 16384 px.
        interpolation: Interpolation of the resize. It is always antialiased.
        channels: Number of channels of the view, as in ViewParams.
        mean: Mean that is subtracted from each channel, as in ViewParams.
        std: Standard deviation that each channel is divided by, as in ViewParams.

    Raises:
        ValueError: If a value is out of range; the message names the field.

    Source:
        The sizes 256 and 224 are those of facebookresearch/barlowtwins evaluate.py at 8e8d284.
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
    """The views that a method trains on, and the size of its evaluation view. PRESETS has the known ones by name.

    Args:
        views: Parameters of each view; two for Barlow Twins.
        eval_resize_ratio: Ratio resize_px / size_px of the evaluation view, 1 or more.

    Examples:
        >>> preset = PRESETS["barlow_twins"].changed(size_px=96)
    """

    views: tuple[ViewParams, ...]
    eval_resize_ratio: float = 256 / 224

    def changed(self, **changes: Any) -> Preset:
        """Return the preset with fields of every view changed.

        Args:
            **changes: Fields of ViewParams and their new values.

        Raises:
            ValueError: If a value is out of range; the message names the field.
        """
        return replace(self, views=tuple(replace(view, **changes) for view in self.views))

    def eval_params(self) -> EvalParams:
        """Return the evaluation view with the size, interpolation and normalization of the first training view."""
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
    # At 32 px a blur of sigma 2 removes all shapes. The CIFAR recipes of the literature have no blur, and evaluate on
    # the whole image.
    "barlow_twins_32": Preset(
        (replace(_VIEW_A, size_px=32, blur_p=0.0), replace(_VIEW_B, size_px=32, blur_p=0.0)),
        eval_resize_ratio=1.0,
    ),
    # Images without top and bottom: all eight orientations are equally likely. Histopathology is symmetric under
    # rotation and reflection (Veeling et al. 2018, arXiv 1806.03962). Pathology networks that were trained on turned
    # views are more invariant to turns (Elphick et al. 2024, arXiv 2412.11938). Two methods for satellites flip
    # horizontally only: SeCo, ServiceNow/seasonal-contrast datasets/seco_dataset.py at 411e37e, and SSL4EO-S12. Not
    # measured here.
    "barlow_twins_overhead": Preset((_VIEW_A, _VIEW_B)).changed(flip_v_p=0.5, rot90_p=0.75),
    # Gray images: saturation, hue and the conversion to gray do not change them. MoCo-CXR, for X-rays, has none of the
    # three either: stanfordmlgroup/MoCo-CXR moco_pretraining/moco/aihc_utils/image_transform.py at 9ff5795. Brightness
    # and contrast stay at 0.4, as in SSL4EO-S12's MoCo v3 for spectral bands: zhu-xlab/SSL4EO-S12
    # src/benchmark/pretrain_ssl/pretrain_moco_v3_s2c.py at 1dc0c83. Not measured here.
    "barlow_twins_gray": Preset((_VIEW_A, _VIEW_B)).changed(saturation=0.0, hue=0.0, gray_p=0.0),
    "swav": Preset((_SWAV_GLOBAL,) * 2 + (_SWAV_LOCAL,) * 6),
    "dino": Preset(_DINO_GLOBAL + (_DINO_LOCAL,) * 8),
}


def resolve_views(views: str | Preset) -> Preset:
    """Return a preset by its name, or the given preset.

    Args:
        views: Preset, or the name of one.

    Raises:
        ValueError: If no preset has that name.
    """
    if isinstance(views, Preset):
        return views
    if views not in PRESETS:
        raise ValueError(f"views: there is no preset {views!r}; use one of {', '.join(PRESETS)}")
    return PRESETS[views]
