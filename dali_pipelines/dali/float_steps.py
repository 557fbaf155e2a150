"""The steps of a view in float32, for images that are not RGB of 8 bits, as functions from DALI node to DALI node.

Colors are levels: real numbers from 0 to 255. No step rounds or truncates them, so a view keeps all of the image's
depth. A step only clamps what leaves the range. Images are (H, W, C) float32 in layout HWC, on a CPU or a GPU.
"""

from __future__ import annotations

from nvidia.dali import fn, math, types
from nvidia.dali.pipeline import DataNode

from dali_pipelines.dali import augment
from dali_pipelines.views.draws import COLOR_STEPS
from dali_pipelines.views.params import EvalParams, ViewParams

# The hue of a pixel with less chroma, in levels, has no effect. This only avoids a division by zero.
_LEAST_CHROMA = 1e-6


def one_view(x: DataNode, draws: dict[str, DataNode], view: ViewParams, float16: bool) -> DataNode:
    """Apply the augmentations of one view after its crop, in the order of the official transform.

    Args:
        x: Crop after its resize and its turn, (size_px, size_px, C) float32.
        draws: Random numbers of the view, by their names in ViewDraws and Orientation. Color steps without one are left
            out.
        view: Parameters of the view. Saturation, hue and gray need images of three channels.
        float16: Whether the output is float16 instead of float32.
    """
    if "jitter" in draws:
        if draws["jitter"]:
            x = color_jitter(x, draws, view)
    if view.gray_p > 0:
        if draws["gray"]:
            x = to_gray(x)
    if view.blur_p > 0:
        if draws["blur"]:
            x = augment.gaussian_blur(x, draws["blur_sigma_px"])
    if view.solarize_p > 0:
        if draws["solarize"]:
            x = math.min(x, 255.0 - x)
    return normalize(x, view, fn.cast(draws["mirrored"], dtype=types.INT32), float16)


def color_jitter(x: DataNode, draws: dict[str, DataNode], view: ViewParams) -> DataNode:
    """Apply the color steps whose random numbers are there, in the order that is drawn for each sample."""
    order = draws["color_order"]
    for turn in range(len(COLOR_STEPS)):
        step = order[turn]
        if "brightness" in draws:
            if step == COLOR_STEPS.index("brightness"):
                x = adjust_brightness(x, draws["brightness"])
        if "contrast" in draws:
            if step == COLOR_STEPS.index("contrast"):
                x = adjust_contrast(x, draws["contrast"], view)
        if "saturation" in draws:
            if step == COLOR_STEPS.index("saturation"):
                x = adjust_saturation(x, draws["saturation"])
        if "hue" in draws:
            if step == COLOR_STEPS.index("hue"):
                x = adjust_hue(x, draws["hue"], view)
    return x


def adjust_brightness(images: DataNode, factor: DataNode) -> DataNode:
    """Blend with black."""
    return augment.clamped(images * augment.beside(factor, images))


def adjust_contrast(images: DataNode, factor: DataNode, view: ViewParams) -> DataNode:
    """Blend with the mean gray of the image. Each channel has its own mean if the images are not RGB."""
    gray = luma(images) if view.channels in (1, 3) else images
    return _blend(images, fn.reductions.mean(gray, axes=[0, 1], keep_dims=True), factor)


def adjust_saturation(images: DataNode, factor: DataNode) -> DataNode:
    """Blend each pixel of an RGB image with its gray."""
    return _blend(images, luma(images), factor)


def adjust_hue(images: DataNode, turns: DataNode, view: ViewParams) -> DataNode:
    """Turn the hue in HSV, or in YIQ with DALI's own operator.

    Args:
        images: RGB images.
        turns: Shift in turns of the color wheel, in [-0.5, 0.5].
        view: Parameters of the view, which say in which space.
    """
    if view.hue_space == "hsv":
        turned = augment.turned_hue(images, turns, least_chroma=_LEAST_CHROMA, add=0.0)
    else:
        turned = fn.hue(images, hue=turns * 360.0, dtype=types.FLOAT)
    return augment.clamped(turned)


def luma(images: DataNode) -> DataNode:
    """Return ITU-R 601 gray of RGB images, (H, W, 1). DALI's color_space_conversion takes only uint8."""
    red, green, blue = (images[:, :, channel : channel + 1] for channel in range(3))
    return red * 0.299 + green * 0.587 + blue * 0.114


def to_gray(images: DataNode) -> DataNode:
    """Return ITU-R 601 gray in three channels."""
    # The sum has the images' shape, in less time than a concatenation.
    return luma(images) + images * 0.0


def normalize(
    images: DataNode, params: ViewParams | EvalParams, mirror: DataNode | int = 0, float16: bool = False
) -> DataNode:
    """Normalize the images, and flip them horizontally. Arguments are those of augment.normalize."""
    if params.channels == 1:
        images = luma(images)
    return augment.normalize_channels(images, params, mirror, float16)


def _blend(images: DataNode, toward: DataNode, factor: DataNode) -> DataNode:
    factor = augment.beside(factor, images)
    return augment.clamped(images * factor + toward * (1.0 - factor))
