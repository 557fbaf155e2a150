"""The native backend against PIL, torchvision and DALI's graph, with the same parameters, in uint8 levels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision.transforms import functional as F

from dali_pipelines import PRESETS, Backend, TwoViewLoader
from dali_pipelines.native.kernel import augment
from dali_pipelines.native.stream import eval_view, gaussian, random_view, read_pixels
from dali_pipelines.plans import Plan
from dali_pipelines.sources import FileSource
from dali_pipelines.views.crop_windows import crop_window
from dali_pipelines.views.draws import COLOR_STEPS, draw_views
from dali_pipelines.views.params import MOST_PIXELS, EvalParams, ViewParams
from dali_pipelines.views.yiq import hue_matrix
from tests.dali_pipelines import reference
from tests.dali_pipelines.reference import FACTORS, SIGMAS, TURNS, distance

SIZE = 224
IDENTITY = np.ones(3, dtype=np.float32), np.zeros(3, dtype=np.float32)


@pytest.fixture(scope="module")
def squares(photographs: list[Image.Image]) -> list[Image.Image]:
    return [photo.crop((40, 8, 40 + SIZE, 8 + SIZE)) for photo in photographs]


def run(
    square: Image.Image,
    steps: tuple[str, ...] = (),
    values: tuple[float, ...] = (),
    *,
    flip: bool = False,
    gray: bool = False,
    sigma_px: float | None = None,
    solarize: bool = False,
    in_yiq: bool = False,
) -> NDArray[np.uint8]:
    """Run the kernel without normalization, so that it writes whole numbers."""
    size = square.width
    factors, matrix = np.ones(4, dtype=np.float32), np.empty((0, 3), dtype=np.float32)
    for step, value in zip(steps, values):
        factors[COLOR_STEPS.index(step)] = 6 * value if step == "hue" else value
        matrix = hue_matrix(value) if in_yiq else matrix
    order = np.array([COLOR_STEPS.index(step) for step in steps], dtype=np.uint8)
    taps = np.ones(1, dtype=np.float32) if sigma_px is None else gaussian(sigma_px, size)
    scratch = np.empty((2, size, 3, size), dtype=np.float32)
    out = np.empty((size, size, 3), dtype=np.float32)
    augment(np.array(square), flip, order, factors, matrix, gray, taps, solarize, *IDENTITY, scratch, out)
    assert (out == out.round()).all()
    return out.astype(np.uint8)


@pytest.mark.parametrize(
    ("step", "values", "theirs", "mean", "largest"),
    [
        ("brightness", FACTORS, F.adjust_brightness, 0, 0),
        ("contrast", FACTORS, F.adjust_contrast, 0, 0),
        ("saturation", FACTORS, F.adjust_saturation, 0, 0),
        # PIL's HSV has 8 bits a channel; torchvision's on tensors is exact, and we stand by it.
        ("hue", TURNS, F.adjust_hue, 0.9, 12),
    ],
)
def test_color_step_is_pils(
    squares: list[Image.Image],
    step: str,
    values: list[float],
    theirs: Callable[[Image.Image, float], Image.Image],
    mean: float,
    largest: int,
) -> None:
    for value in values:
        got = [run(square, (step,), (value,)) for square in squares]
        measured = distance(got, [theirs(square, value) for square in squares])
        assert measured[0] <= mean
        assert measured[1] <= largest


def test_hue_is_torchvisions_on_tensors(squares: list[Image.Image]) -> None:
    for turn in TURNS:
        got = [run(square, ("hue",), (turn,)) for square in squares]
        expected = [F.adjust_hue(F.pil_to_tensor(square), turn).permute(1, 2, 0) for square in squares]
        mean, largest = distance(got, expected)
        assert mean <= 0.1
        assert largest <= 1


def test_hue_in_yiq_is_a_matrix(squares: list[Image.Image]) -> None:
    for turn in TURNS:
        got = [run(square, ("hue",), (turn,), in_yiq=True) for square in squares]
        mean, largest = distance(got, [reference.hue_in_yiq(square, turn) for square in squares])
        assert mean <= 1e-5, "halves in float32"
        assert largest <= 1


def test_steps_run_in_their_order(squares: list[Image.Image]) -> None:
    """Clipping makes the order visible; contrast takes the mean gray of what it is given."""
    for order in (("brightness", "contrast", "saturation"), ("contrast", "saturation", "brightness")):
        for square in squares:
            expected = square
            for step in order:
                expected = reference.ADJUST[step](expected, 1.4)
            mean, largest = distance([run(square, order, (1.4,) * 3)], [expected])
            assert mean <= 0.01
            assert largest <= 2


@pytest.mark.parametrize("size", [SIZE, 32])
def test_blur_is_torchvisions(squares: list[Image.Image], size: int) -> None:
    """A true Gaussian, as DALI's; at 32 px its window of 13 meets both edges."""
    small = [square.crop((60, 60, 60 + size, 60 + size)) for square in squares]
    for sigma in SIGMAS:
        got = [run(square, sigma_px=sigma) for square in small]
        mean, largest = distance(got, [F.gaussian_blur(square, [23, 23], sigma) for square in small])
        assert mean <= 0.05
        assert largest <= 1


def test_a_blur_wider_than_the_view_is_cut(squares: list[Image.Image]) -> None:
    tiny = squares[0].crop((0, 0, 8, 8))
    assert len(gaussian(9.0, 8)) == 15
    assert np.ptp(run(tiny, sigma_px=9.0)) < np.ptp(np.asarray(tiny))


def test_gray_solarize_and_flip_are_pils(squares: list[Image.Image]) -> None:
    gray = [square.convert("L").convert("RGB") for square in squares]
    assert distance([run(square, gray=True) for square in squares], gray) == (0, 0)
    assert distance([run(square, solarize=True) for square in squares], [ImageOps.solarize(s) for s in squares]) == (
        0,
        0,
    )
    assert distance([run(square, flip=True) for square in squares], [ImageOps.mirror(s) for s in squares]) == (0, 0)


@pytest.mark.parametrize(("height", "width"), [(30, 400), (400, 30), (64, 64), (3, 500), (1, 1), (501, 333)])
def test_crop_window_is_torchvisions(height: int, width: int) -> None:
    (draws,) = draw_views((ViewParams(),), 64, height, width)
    for row in range(64):
        ours = crop_window(height, width, draws, row, ViewParams().crop_ratio)
        assert ours == reference.crop_window(height, width, draws, row, ViewParams().crop_ratio)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crop_is_torchvisions(photographs: list[Image.Image], interpolation: Literal["bicubic", "bilinear"]) -> None:
    """Without the other operations; what is written is the resized crop."""
    view = ViewParams(
        size_px=96, interpolation=interpolation, flip_p=0, jitter_p=0, gray_p=0, blur_p=0, mean=(0,) * 3, std=(1,) * 3
    )
    plan = Plan(np.arange(5), draw_views((view,), 5, 0))
    (draws,) = plan.draws
    got, expected = [], []
    for row, photo in enumerate(photographs):
        out = np.empty((96, 96, 3), dtype=np.float32)
        random_view(view, 0).write(torch.from_numpy(np.array(photo)), plan, row, out)
        got.append((255 * out).round().astype(np.uint8))
        expected.append(reference.view(photo, draws, row, view))
    mean, largest = distance(got, expected)
    assert mean <= 0.02
    assert largest <= 2


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decoder_is_pils(photographs: list[Image.Image], tmp_path: Path, mode: str) -> None:
    for number, photo in enumerate(photographs):
        path = tmp_path / f"{number}.jpg"
        photo.convert(mode).save(path)
        pixels = read_pixels(FileSource(tmp_path, [path.name], labels=None, classes=()), 0, MOST_PIXELS).numpy()
        assert distance([pixels], [Image.open(path).convert("RGB")]) == (0, 0)


@pytest.mark.parametrize("params", [EvalParams(64, 73), EvalParams(64, 64, "bicubic")])
def test_eval_view_is_torchvisions(photographs: list[Image.Image], params: EvalParams) -> None:
    mode = reference.INTERPOLATION[params.interpolation]
    mean, std = (torch.tensor(values) for values in (params.mean, params.std))
    for size in ((320, 240), (319, 240), (317, 240), (241, 240), (320, 235), (235, 240)):
        for photo in (photo.crop((0, 0, *size)) for photo in photographs):
            out = np.empty((64, 64, 3), dtype=np.float32)
            eval_view(params).write(torch.from_numpy(np.array(photo)), Plan(np.zeros(1, dtype=np.int64)), 0, out)
            got = ((torch.from_numpy(out) * std + mean) * 255).round().numpy()
            expected = F.center_crop(F.resize(photo, params.resize_px, mode), [64, 64])
            assert distance([got], [expected])[0] <= 0.15


@pytest.mark.parametrize("changes", [{"channels": 1}, {"channels": 3}, {"hue_space": "yiq"}])
def test_views_are_those_of_dalis_graph(demo_data: Path, changes: dict[str, Any]) -> None:
    preset = PRESETS["barlow_twins"].changed(size_px=64, **changes)
    dali, fused = (
        next(iter(TwoViewLoader(demo_data / "train", 32, preset, backend=Backend(backend, device="cpu"))))
        for backend in ("dali", "native")
    )
    assert dali.filenames == fused.filenames
    for first, second in zip(dali.views, fused.views):
        difference = (first - second).abs() * 255 * 0.226
        assert difference.mean() <= 0.35
        assert difference.amax() <= 40, "at hard edges, where the resizes round otherwise"


@pytest.mark.parametrize("num_threads", [1, 5])
def test_pixels_do_not_depend_on_the_number_of_threads(small_data: Path, num_threads: int) -> None:
    def batches(num_threads: int) -> list[Any]:
        ours = TwoViewLoader(small_data / "train", 9, backend=Backend("native", device="cpu", num_threads=num_threads))
        return [batch.views for batch in ours]

    for first, second in zip(batches(num_threads), batches(2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_threads_of_training_stay_as_they_are(demo_data: Path) -> None:
    """torch.set_num_threads in a thread would reach the one that trains, if it came before that one's first work."""
    program = f"""
import torch
from dali_pipelines import Backend, TwoViewLoader

torch.set_num_threads(3)
next(iter(TwoViewLoader({str(demo_data / "train")!r}, 4, backend=Backend("native", num_threads=2))))
threads = [line for line in torch.__config__.parallel_info().splitlines() if "max_threads" in line]
assert len(threads) == 2 and all(line.endswith(": 3") for line in threads), threads
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_threads_need_not_wait_long_for_the_interpreter(small_data: Path) -> None:
    """With a training loop in Python, the default interval would halve the throughput. A shorter one is not changed."""
    before = sys.getswitchinterval()
    try:
        for own, expected in ((0.005, 0.0005), (0.0001, 0.0001)):
            sys.setswitchinterval(own)
            next(iter(TwoViewLoader(small_data / "train", 4, backend=Backend("native", device="cpu"))))
            assert sys.getswitchinterval() == pytest.approx(expected, abs=1e-5)
    finally:
        sys.setswitchinterval(before)


def test_pixels_do_not_depend_on_who_compiled_the_kernel(demo_data: Path, tmp_path: Path) -> None:
    """The process that compiles and one that finds the code in numba's cache round alike: a resumed run is the same."""
    program = f"""
import hashlib
from dali_pipelines import TwoViewLoader
(batch,) = TwoViewLoader({str(demo_data / "val")!r}, 1560, "barlow_twins_32", backend="native")
print(hashlib.sha256(b"".join(view.numpy().tobytes() for view in batch.views)).hexdigest())
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    results = [subprocess.run(command, env=environment, capture_output=True, check=True).stdout for _ in range(2)]
    assert results[0] == results[1] != b""


def test_memory_is_used_again_once_nobody_holds_it(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    empty = np.empty

    def counting(shape: Any, *arguments: Any, **options: Any) -> NDArray[Any]:
        made.append(shape)
        return empty(shape, *arguments, **options)

    monkeypatch.setattr(np, "empty", counting)
    ours = TwoViewLoader(
        small_data / "train", 4, PRESETS["barlow_twins"], backend=Backend("native", device="cpu", prefetch=1)
    )
    assert sum(1 for _ in range(3) for _ in ours) == 27
    # Two batches under way and one that is looked at, of two views.
    assert made.count((4, 224, 224, 3)) <= 8
