"""Each augmentation against PIL and torchvision on photographs, with the same parameters, in uint8 levels."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from dali_pipelines.dali import augment, decoders
from dali_pipelines.views.draws import draw_views
from dali_pipelines.views.params import EvalParams, ViewParams
from tests.dali_pipelines import reference
from tests.dali_pipelines.reference import FACTORS, SIGMAS, TURNS, Images, distance
from tests.devices import DEVICES


@pytest.fixture(params=DEVICES)
def run_dali(request: pytest.FixtureRequest) -> Callable[..., Images]:
    """`run_on` for each device. The bounds are the same."""
    return partial(run_on, request.param)


def run_on(device: str, body: Callable[..., Any], images: Images, *arguments: NDArray[Any]) -> Images:
    """A function of nodes, run on a batch of images and of one value a sample of each argument."""

    @pipeline_def
    def graph() -> Any:
        nodes = fn.external_source(source=iter([images]), batch=True, layout="HWC")
        values = [fn.external_source(source=iter([argument]), batch=True) for argument in arguments]
        return body(nodes.gpu() if device == "gpu" else nodes, *values)

    device_id = 0 if device == "gpu" else None
    pipeline = graph(batch_size=len(images), num_threads=2, device_id=device_id, prefetch_queue_depth=1)
    (output,) = pipeline.run()
    output = output.as_cpu()
    return [np.array(output.at(index)) for index in range(len(images))]


@pytest.fixture(scope="module")
def arrays(photographs: list[Image.Image]) -> Images:
    return [np.asarray(photo) for photo in photographs]


# Bounds: measured with DALI 2.4, Pillow 12 and torchvision 0.29, and a little room.
@pytest.mark.parametrize(
    ("ours", "values", "theirs", "mean", "largest"),
    [
        (augment.adjust_brightness, FACTORS, F.adjust_brightness, 0.001, 1),
        (augment.adjust_contrast, FACTORS, F.adjust_contrast, 0.01, 1),
        (augment.adjust_saturation, FACTORS, F.adjust_saturation, 0.01, 1),
        # PIL's HSV has 8 bits a channel; torchvision's on tensors is exact, and we stand by it.
        (augment.shift_hue, TURNS, F.adjust_hue, 0.6, 12),
        (augment.gaussian_blur, SIGMAS, lambda image, sigma: F.gaussian_blur(image, [23, 23], sigma), 0.02, 1),
        # PIL blurs by repeated boxes.
        (
            augment.gaussian_blur,
            SIGMAS,
            lambda image, sigma: image.filter(ImageFilter.GaussianBlur(sigma)),
            0.6,
            40,
        ),
    ],
)
def test_operator_is_pils(
    run_dali: Callable[..., Images],
    photographs: list[Image.Image],
    arrays: Images,
    ours: Callable[..., Any],
    values: list[float],
    theirs: Callable[..., Any],
    mean: float,
    largest: int,
) -> None:
    # Every photograph meets every value.
    for turn in range(len(values)):
        rolled = values[turn:] + values[:turn]
        got = run_dali(ours, arrays, np.array(rolled, dtype=np.float32))
        measured = distance(got, [theirs(photo, value) for photo, value in zip(photographs, rolled)])
        assert measured[0] <= mean
        assert measured[1] <= largest


def test_hue_is_torchvisions_on_tensors(
    run_dali: Callable[..., Images], photographs: list[Image.Image], arrays: Images
) -> None:
    got = run_dali(augment.shift_hue, arrays, np.array(TURNS, dtype=np.float32))
    expected = [F.adjust_hue(F.pil_to_tensor(photo), turn).permute(1, 2, 0) for photo, turn in zip(photographs, TURNS)]
    mean, largest = distance(got, expected)
    assert mean <= 0.1
    assert largest <= 1


def test_hue_in_yiq_is_a_matrix(
    run_dali: Callable[..., Images], photographs: list[Image.Image], arrays: Images
) -> None:
    got = run_dali(augment.rotate_hue, arrays, np.array(TURNS, dtype=np.float32))
    mean, largest = distance(got, [reference.hue_in_yiq(photo, turns) for photo, turns in zip(photographs, TURNS)])
    # DALI's matrix back to RGB has three digits.
    assert mean <= 0.05
    assert largest <= 1


def test_gray_and_solarize_are_pils(
    run_dali: Callable[..., Images], photographs: list[Image.Image], arrays: Images
) -> None:
    gray = distance(run_dali(augment.to_gray, arrays), [photo.convert("L").convert("RGB") for photo in photographs])
    assert gray[0] <= 0.002
    assert gray[1] <= 1
    assert distance(run_dali(augment.solarize, arrays), [ImageOps.solarize(photo) for photo in photographs])[1] == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_is_torchvisions_and_flips(
    run_dali: Callable[..., Images], photographs: list[Image.Image], arrays: Images, channels: int
) -> None:
    params = ViewParams(channels=channels)  # type: ignore[arg-type]
    flip = np.array([0, 1, 0, 1, 1], dtype=np.int32)
    got = run_dali(lambda x, mirror: augment.normalize(x, params, mirror), arrays, flip)
    for array, photo, mirrored in zip(got, photographs, flip):
        x = F.to_tensor(photo if channels == 3 else photo.convert("L"))
        mean, std = torch.tensor(params.mean), torch.tensor(params.std)
        if channels == 1:
            mean, std = mean.mean(), std.mean()
        x = (x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
        x = x.flip(-1) if mirrored else x
        tolerance = 1e-5 if channels == 3 else 0.03  # a level, from the rounding of gray
        torch.testing.assert_close(torch.from_numpy(array).permute(2, 0, 1), x, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("L", "PNG")]
)
def test_decoder_is_pils(photographs: list[Image.Image], mode: str, suffix: str) -> None:
    encoded, expected = [], []
    for photo in photographs:
        buffer = io.BytesIO()
        photo.convert(mode).save(buffer, suffix)
        encoded.append(np.frombuffer(buffer.getvalue(), dtype=np.uint8))
        expected.append(Image.open(buffer).convert("RGB"))

    @pipeline_def
    def graph() -> Any:
        return decoders.decode(fn.external_source(source=iter([encoded]), batch=True), "cpu", 0.0)

    (output,) = graph(batch_size=len(encoded), num_threads=1, device_id=None, prefetch_queue_depth=1).run()
    got = [np.array(output.at(index)) for index in range(len(encoded))]
    # Inverted CMYK is converted by another formula.
    assert distance(got, expected)[1] <= (0 if mode != "CMYK" else 2)


def test_crop_is_torchvisions(run_dali: Callable[..., Images], photographs: list[Image.Image], arrays: Images) -> None:
    view = ViewParams(size_px=96)
    for seed in range(6):
        (draws,) = draw_views((view,), len(arrays), seed)
        got = run_dali(
            lambda x, *drawn: augment.resize(augment.cut(x, *augment.crop_window(*drawn, view)), view),
            arrays,
            np.array([array.shape for array in arrays]),
            draws.crop_area,
            draws.crop_ratio,
            draws.crop_position,
        )
        expected = []
        for row, photo in enumerate(photographs):
            window = reference.crop_window(photo.height, photo.width, draws, row, view.crop_ratio)
            expected.append(F.resized_crop(photo, *window, [96, 96], InterpolationMode.BICUBIC))
        mean, largest = distance(got, expected)
        # PIL rounds and clips between its two passes, DALI does not: single pixels at hard edges differ.
        assert mean <= 0.25
        assert largest <= 16


@pytest.mark.parametrize(("height", "width"), [(30, 400), (400, 30), (64, 64), (3, 500), (1, 1), (501, 333)])
def test_crop_window_is_torchvisions(height: int, width: int) -> None:
    """Even if no try fits and the crop is centered. float32 would round some windows differently."""
    view = ViewParams()
    n = 64
    (draws,) = draw_views((view,), n, height, width)
    shapes = np.tile(np.array([height, width, 3]), (n, 1))

    @pipeline_def
    def graph() -> Any:
        inputs = (shapes, draws.crop_area, draws.crop_ratio, draws.crop_position)
        nodes = [fn.external_source(source=iter([array]), batch=True) for array in inputs]
        return augment.crop_window(*nodes, view)

    start, end = graph(batch_size=n, num_threads=1, device_id=None, prefetch_queue_depth=1).run()
    for row in range(n):
        top, left, crop_h, crop_w = reference.crop_window(height, width, draws, row, view.crop_ratio)
        assert np.array(start.at(row)).tolist() == [top, left]
        assert np.array(end.at(row)).tolist() == [top + crop_h, left + crop_w]


@pytest.mark.parametrize("params", [EvalParams(64, 73), EvalParams(64, 64, "bicubic")])
def test_eval_view_is_torchvisions(
    run_dali: Callable[..., Images], photographs: list[Image.Image], arrays: Images, params: EvalParams
) -> None:
    mode = reference.INTERPOLATION[params.interpolation]
    # Sizes of all remainders: the halves and the thirds must be rounded as torchvision's are.
    for size in ((320, 240), (319, 240), (317, 240), (241, 240), (320, 235), (235, 240)):
        photos = [photo.crop((0, 0, *size)) for photo in photographs]
        cut = [np.asarray(photo) for photo in photos]
        shapes = np.array([array.shape for array in cut])
        got = run_dali(lambda x, shape: augment.resize_center_crop(x, shape, params), cut, shapes)
        expected = [F.center_crop(F.resize(photo, params.resize_px, mode), [64, 64]) for photo in photos]
        mean, largest = distance(got, expected)
        assert mean <= 0.15
        assert largest <= (2 if params.interpolation == "bilinear" else 12)
