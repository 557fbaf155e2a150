"""Views of images that are not RGB of 8 bits, on both backends, against references in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipelines import PRESETS, Backend, EvalLoader, EvalParams, Preset, TwoViewLoader, array_source, streams
from dali_pipelines.backend import ResolvedBackend
from dali_pipelines.errors import BadImageError
from dali_pipelines.memory import check_memory
from dali_pipelines.plans import Plan
from dali_pipelines.sources import ImageSource, Subset
from dali_pipelines.views.channels import views_of_channels
from dali_pipelines.views.draws import draw_views
from dali_pipelines.views.params import Tuning
from tests.dali_pipelines import float_reference
from tests.dali_pipelines.conftest import assert_same, chosen
from tests.dali_pipelines.float_images import FloatImages, scenes

N, SIZE = 12, 40
# Steps change pixels up to this far from the edge: the blur's radius.
EDGE = 8


def preset_of(channels: int, **changes: Any) -> Preset:
    """Every step, often; with a mean and a std of each channel."""
    values = 3 if channels == 1 else channels
    steps = {"jitter_p": 0.9, "gray_p": 0.3, "blur_p": 0.5, "solarize_p": 0.5, "flip_v_p": 0.5, "rot90_p": 0.5}
    normal = {"mean": tuple(0.3 + 0.02 * k for k in range(values)), "std": tuple(0.2 + 0.01 * k for k in range(values))}
    fields = {"size_px": SIZE, "channels": channels, "interpolation": "bilinear", **steps, **normal, **changes}
    return PRESETS["barlow_twins"].changed(**fields)


def levels_of(views: Tensor, params: Any) -> NDArray[np.float32]:
    """Undo the normalization: (n, S, S, C)."""
    mean, std = np.array(params.mean), np.array(params.std)
    if params.channels == 1:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    levels: NDArray[np.float32] = (views.cpu().numpy().transpose(0, 2, 3, 1) * std + mean) * 255
    return levels


def assert_close(got: NDArray[Any], expected: NDArray[Any], by_table: bool) -> None:
    """The native backend is exact. DALI resizes edges from repeated pixels, and has cubic weights from a table."""
    difference = np.abs(got - expected)
    assert np.ptp(expected) > 100
    if chosen().name == "native":
        assert difference.max() < 0.003
        return
    inner = difference[:, EDGE:-EDGE, EDGE:-EDGE]
    assert inner.max() < (0.15 if by_table else 0.01)
    assert inner.mean() < (0.005 if by_table else 0.001)
    assert difference.mean() < 0.04


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize(
    ("of_images", "changes"),
    [
        (3, {"channels": 3}),
        (3, {"channels": 3, "hue_space": "yiq"}),
        (3, {"channels": 3, "interpolation": "bicubic"}),
        (3, {"channels": 1}),
        (1, {"channels": 3}),
        (5, {"channels": 5}),
        (2, {"channels": 2, "interpolation": "bicubic"}),
    ],
)
def test_views_are_the_references(of_images: int, changes: dict[str, Any]) -> None:
    """Both views of all images, with every step. Gray images have three equal channels."""
    images = scenes(N, of_images)
    images = [image.repeat(3, axis=2) for image in images] if of_images == 1 else images
    preset = preset_of(**changes)
    loader = TwoViewLoader(FloatImages(images), N, preset, backend=chosen(), seed=2)
    batch = next(iter(loader))
    for params, views, draws in zip(preset.views, batch.views, draw_views(preset.views, N, 2, 0, 0)):
        expected = [
            float_reference.view(images[int(name)], draws, row, params) for row, name in enumerate(batch.filenames)
        ]
        assert views.dtype == torch.float32
        assert views.is_contiguous(memory_format=torch.channels_last)
        assert_close(levels_of(views, params), np.stack(expected), params.interpolation == "bicubic")


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("channels", [3, 5])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_views_are_the_references(channels: int, interpolation: Any) -> None:
    images = scenes(5, channels)
    params = EvalParams(32, 37, interpolation, channels, (0.4,) * channels, (0.2,) * channels)
    (batch,) = EvalLoader(FloatImages(images), 5, params, backend=chosen())
    expected = np.stack([float_reference.eval_view(image, params) for image in images])
    assert_close(levels_of(batch.images, params), expected, interpolation == "bicubic")


@pytest.mark.usefixtures("each_backend")
def test_a_ramp_of_16_bits_keeps_its_depth() -> None:
    """Each of its 65,536 pixels has its own value, and no step makes 256 of them."""
    ramp = (np.arange(2**16, dtype=np.float32) / 257).reshape(256, 256, 1).repeat(3, axis=2)
    (batch,) = TwoViewLoader(FloatImages([ramp]), 1, preset_of(3, solarize_p=0), backend=chosen())
    (evaluated,) = EvalLoader(FloatImages([ramp]), 1, EvalParams(64, 64), backend=chosen())
    for view, size in ((batch.views[0], SIZE), (batch.views[1], SIZE), (evaluated.images, 64)):
        assert len(torch.unique(view[0, 0])) > 0.9 * size**2


@pytest.mark.usefixtures("each_backend")
def test_images_of_8_bits_and_five_channels_are_computed_in_float() -> None:
    pixels = np.stack([image.round().astype(np.uint8) for image in scenes(4, 5) for image in [image[:40, :40]]])
    of_bytes, of_floats = array_source(pixels), FloatImages(list(pixels.astype(np.float32)))
    assert of_bytes.views_in_float
    for preset in (preset_of(5), preset_of(5, interpolation="bicubic")):
        found = [next(iter(TwoViewLoader(source, 4, preset, backend=chosen()))) for source in (of_bytes, of_floats)]
        for ours, theirs in zip(*(batch.views for batch in found)):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("each_backend")
def test_ranks_and_threads_do_not_change_a_row() -> None:
    source, preset = FloatImages(scenes(N, 5)), preset_of(5)
    whole = next(iter(TwoViewLoader(source, N, preset, backend=chosen(num_threads=1))))
    parts = [
        next(iter(TwoViewLoader(source, N // 2, preset, backend=chosen(num_threads=3), rank=rank, world_size=2)))
        for rank in range(2)
    ]
    assert whole.filenames == [name for part in parts for name in part.filenames]
    for view, *halves in zip(whole.views, *(part.views for part in parts)):
        assert torch.equal(view, torch.cat(halves))


@pytest.mark.usefixtures("each_backend")
def test_a_state_resumes_with_the_same_views() -> None:
    source, preset = FloatImages(scenes(N, 3)), preset_of(3)
    loader = TwoViewLoader(source, 4, preset, backend=chosen())
    batches = list(loader)
    again = TwoViewLoader(source, 4, preset, backend=chosen())
    again.load_state_dict(loader.state_after(1))
    assert_same(list(again), batches[1:])


@pytest.mark.usefixtures("each_backend")
def test_bad_images_are_replaced_and_named(caplog: pytest.LogCaptureFixture) -> None:
    source = FloatImages(scenes(4, 3), broken=[2])
    (batch,) = TwoViewLoader(source, 4, preset_of(3), backend=chosen())
    assert sorted(batch.filenames) == ["0", "1", "3", "3"]
    assert "float image 2: ValueError: the image has NaN pixels" in caplog.text
    source.pixel_dtype = np.dtype(np.float64)
    with pytest.raises(BadImageError, match=r"its pixels are \(\d+, \d+, 3\) float32, and must be \(H, W, 3\) float64"):
        list(EvalLoader(source, 4, EvalParams(32, 32), backend=chosen()))
    source.pixel_dtype, source.channels = np.dtype(np.float32), 5
    with pytest.raises(BadImageError, match=r"\(H, W, 5\) float32, as its source says"):
        list(EvalLoader(source, 4, EvalParams(32, 32, "bilinear", 5, (0.5,) * 5, (0.2,) * 5), backend=chosen()))


class Reversed(FloatImages):
    """Images whose arrays are not contiguous: a view of others, with rows and channels in reverse."""

    def read(self, index: int) -> NDArray[np.float32]:
        return super().read(index)[::-1, :, ::-1]


@pytest.mark.usefixtures("each_backend")
def test_arrays_need_not_be_contiguous() -> None:
    images = scenes(4, 5)
    sources = Reversed(images), FloatImages([np.ascontiguousarray(image[::-1, :, ::-1]) for image in images])
    ours, theirs = (list(TwoViewLoader(source, 4, preset_of(5), backend=chosen())) for source in sources)
    assert_same(ours, theirs)


def test_float16_is_the_rounded_float32() -> None:
    pytest.importorskip("nvidia.dali")
    source, preset = FloatImages(scenes(4, 5)), preset_of(5)
    half, full = (
        next(
            iter(TwoViewLoader(source, 4, preset, backend=Backend("dali", device="cpu", tuning=Tuning(float16=short))))
        )
        for short in (True, False)
    )
    for ours, theirs in zip(half.views, full.views):
        assert ours.dtype == torch.float16
        torch.testing.assert_close(ours, theirs.half())


def test_steps_without_meaning_are_off_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    source, preset = FloatImages(scenes(4, 5)), preset_of(5)
    loader = TwoViewLoader(source, 2, preset, rank=0, world_size=2)
    TwoViewLoader(source, 2, preset, rank=1, world_size=2)
    (message,) = caplog.messages
    assert message.startswith("the images have 5 channels, so saturation, hue and gray are left out of their views; br")
    for asked, view in zip(preset.views, loader.views):
        assert view == replace(asked, saturation=0.0, hue=0.0, gray_p=0.0)
    caplog.clear()
    TwoViewLoader(source, 2, preset_of(5, saturation=0.0, hue=0.0, gray_p=0.0))
    TwoViewLoader(FloatImages(scenes(4, 3)), 2, preset_of(3))
    assert not caplog.messages


def test_settings_for_8_bits_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    images = scenes(4, 3)
    eight = array_source(np.zeros((4, 40, 40, 3), np.uint8))
    region = Backend("dali", device="cpu", tuning=Tuning(decode="region"))
    with pytest.raises(ValueError, match=r"tuning.decode: region is allowed only for RGB images of 8 bits.*; use once"):
        TwoViewLoader(FloatImages(images), 4, preset_of(3), backend=region)
    TwoViewLoader(eight, 4, preset_of(3), backend=region)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for setting, said in (({"augment": "fused"}, "augment: fused"), ({"on_device": True}, "on_device: true")):
        backend = Backend("native", device="gpu", **setting)
        five = array_source(np.zeros((4, 40, 40, 5), np.uint8))
        for source, channels in ((FloatImages(images), 3), (Subset(five, np.arange(4)), 5)):
            with pytest.raises(ValueError, match=f"{said} is allowed only for RGB images of 8 bits.*; use auto"):
                TwoViewLoader(source, 4, preset_of(channels), backend=backend)


def on_a_gpu(device: Any = "gpu") -> ResolvedBackend:
    return Backend("native", device="cpu").resolve()._replace(device=device)


@pytest.mark.parametrize("channels", [3, 5, "8 bits"])
def test_views_for_a_gpu_are_those_of_the_host(channels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads write float32, which is normalized where it is copied to. A CPU stands in for the GPU."""
    monkeypatch.setattr(streams, "_gpu", lambda: torch.device("cpu"))
    source: ImageSource = FloatImages(scenes(4, channels if channels != "8 bits" else 3))
    if channels == "8 bits":
        source = array_source(np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8))
    views = views_of_channels(preset_of(source.channels).views, source.channels, is_told=False)
    params = replace(preset_of(source.channels).eval_params(), size_px=32, resize_px=32)

    def plans() -> Iterator[Plan]:
        yield Plan(np.arange(4), draw_views(views, 4, 0))

    found, written = [], []
    for backend in (on_a_gpu("cpu"), on_a_gpu()):
        stream = streams.view_stream(source, views, plans=plans(), batch_size=4, backend=backend)
        evaluated = streams.eval_stream(source, params, plans=plans(), batch_size=4, backend=backend)
        found.append([view for each in (stream, evaluated) for _, views_ in each for view in views_])
        written.append(stream._outputs.empty((1,)).dtype)  # type: ignore[union-attr]
    assert written == [np.float32, np.uint8 if channels == "8 bits" else np.float32]
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_float_views_for_a_gpu_need_four_bytes_a_value() -> None:
    params = EvalParams(1024, 1024)
    # Batches of this size fit as bytes, and not as float32.
    samples = psutil.virtual_memory().available // (4 * 3 * 1024**2) // 2
    check_memory([params], samples=samples, backend=on_a_gpu()._replace(prefetch=2))
    with pytest.raises(ValueError, match="prefetch: 2 batches"):
        check_memory([params], samples=samples, backend=on_a_gpu()._replace(prefetch=2), in_float=True)
