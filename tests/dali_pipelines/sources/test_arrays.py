from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dali_pipelines import (
    EvalLoader,
    EvalParams,
    TwoViewLoader,
    array_source,
    flat_folder,
    open_source,
    several_sources,
)
from tests.dali_pipelines.conftest import SMALL, chosen
from tests.dali_pipelines.float_images import FloatImages


@pytest.fixture
def images(photographs: list[Image.Image]) -> NDArray[np.uint8]:
    """(10, 48, 64, 3)."""
    small = [photo.resize((64, 48)) for photo in photographs]
    return np.stack([np.asarray(x) for photo in small for x in (photo, photo.transpose(Image.Transpose.ROTATE_180))])


@pytest.mark.usefixtures("each_backend")
def test_views_are_those_of_the_files(images: NDArray[np.uint8], tmp_path: Path) -> None:
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    of_files = list(TwoViewLoader(flat_folder(tmp_path), 5, SMALL, backend=chosen()))
    of_array = list(TwoViewLoader(array_source(images), 5, SMALL, backend=chosen()))
    assert [[f"{name}.png" for name in batch.filenames] for batch in of_array] == [b.filenames for b in of_files]
    for batch, expected in zip(of_array, of_files):
        assert all(map(torch.equal, batch.views, expected.views))


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("shape", [(10, 48, 64), (10, 48, 64, 1)])
def test_gray_is_three_channels(images: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    gray = images[..., 0]
    params = EvalParams(48, 48, mean=(0, 0, 0), std=(1, 1, 1))
    (batch,) = EvalLoader(array_source(gray.reshape(shape)), 10, params, backend=chosen())
    expected = torch.from_numpy(gray[:, :, 8:56]) / 255
    for channel in range(3):
        torch.testing.assert_close(batch.images[:, channel].cpu(), expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("each_backend")
def test_six_channels_are_two_pictures_without_color_operations(
    images: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    plain = SMALL.changed(contrast=0.0, saturation=0.0, hue=0.0, gray_p=0.0)
    both = np.concatenate([images[::2], images[1::2]], axis=3)
    preset = SMALL.changed(contrast=0.0, channels=6, mean=plain.views[0].mean * 2, std=plain.views[0].std * 2)
    loader = TwoViewLoader(array_source(both), 5, preset, backend=chosen())
    (message,) = caplog.messages
    assert message.startswith("the images have 6 channels, so saturation, hue and gray are left out")
    TwoViewLoader(array_source(both), 2, preset, backend=chosen(), rank=1, world_size=2)
    assert len(caplog.messages) == 1, "said once"
    (batch,) = loader
    for half, part in enumerate((images[::2], images[1::2])):
        deep = FloatImages(list(part.astype(np.float32)))
        (expected,) = TwoViewLoader(deep, 5, plain, backend=chosen())
        for view, three in zip(batch.views, expected.views):
            assert view.shape == (5, 6, 32, 32)
            torch.testing.assert_close(view[:, 3 * half : 3 * half + 3], three, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("each_backend")
def test_five_channels_are_evaluated(images: NDArray[np.uint8]) -> None:
    five = np.concatenate([images, images[..., :2]], axis=3)
    params = EvalParams(48, 48, channels=5, mean=(0,) * 5, std=(1,) * 5)
    (batch,) = EvalLoader(array_source(five), 10, params, backend=chosen())
    expected = torch.from_numpy(five[:, :, 8:56]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(batch.images.cpu(), expected, rtol=0, atol=1e-6)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_channels_must_be_those_of_the_images(images: NDArray[np.uint8]) -> None:
    for wanted, given in ((SMALL, 5), (SMALL.changed(channels=2, mean=(0, 0), std=(1, 1)), 3)):
        data = np.repeat(images[..., :1], given, axis=3)
        with pytest.raises(ValueError, match=rf"views: channels \d is not allowed for images of {given}"):
            TwoViewLoader(array_source(data), 5, wanted, backend=chosen())
    with pytest.raises(ValueError, match="channels 3 is not allowed for images of 2"):
        EvalLoader(array_source(images[..., :2]), 5, backend=chosen())


def test_labels_and_classes(images: NDArray[np.uint8]) -> None:
    source = array_source(images, [9, 3] * 5)
    assert source.classes == ("3", "9")
    assert source.labels.tolist() == [1, 0] * 5
    assert array_source(images, np.zeros(10, int), ["cat", "dog"]).classes == ("cat", "dog")
    assert not array_source(torch.from_numpy(images)).has_labels


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"images": np.zeros((4, 8, 8, 3), complex)}, r"images: shape \(4, 8, 8, 3\) of complex128"),
        ({"images": np.zeros((8, 8), np.uint8)}, r"images: shape \(8, 8\)"),
        ({"images": np.zeros((0, 8, 8, 3), np.uint8)}, r"images: shape \(0, "),
        ({"labels": [1, 2]}, r"labels: shape \(2,\) .* must be \(10,\) of integers"),
        ({"labels": [0.5] * 10}, "labels: .*float64"),
        ({"labels": [2] * 10, "classes": ["a", "b"]}, "labels: 2 to 2 must be indices of the 2 classes"),
    ],
)
def test_bad_arrays_are_named(images: NDArray[np.uint8], arguments: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        array_source(**{"images": images, **arguments})


@pytest.mark.parametrize("dtype", ["u2", ">u2", "i2", "f2", "f4", "f8"])
def test_pixels_of_other_types_need_a_range(dtype: str) -> None:
    values = np.arange(2 * 8 * 8 * 1).reshape(2, 8, 8, 1).astype(dtype)
    source = array_source(values)
    assert source.kind == "raw"
    assert source.pixel_dtype == values.dtype
    assert source.channels == 3
    np.testing.assert_array_equal(source.read(1), values[1])
    for loader in (TwoViewLoader, EvalLoader):
        with pytest.raises(ValueError, match=r"have no known range of values; use full_depth\(source\)"):
            loader(several_sources([source, source]), 2)


def test_files_of_arrays(images: NDArray[np.uint8], tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", images=images, labels=np.arange(10))
    np.save(tmp_path / "images.npy", images)
    for name, has_labels in (("both.npz", True), ("images.npy", False)):
        source = open_source(tmp_path / name)
        assert source.has_labels == has_labels
        np.testing.assert_array_equal(source.read(7), images[7])
        assert source.read(7).flags.writeable, "or torch would warn"
    np.savez(tmp_path / "other.npz", x=images)
    with pytest.raises(ValueError, match=r"other\.npz: it has x, and must have the array images"):
        open_source(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("nonsense")
    with pytest.raises(ValueError, match=r"text\.npz: not a file of arrays"):
        open_source(tmp_path / "text.npz")


def test_the_fingerprint_follows_the_pixels(images: NDArray[np.uint8]) -> None:
    changed = images.copy()
    changed[3, 5, 5, 0] ^= 1
    before = array_source(images).fingerprint
    assert array_source(images.copy()).fingerprint == before
    assert array_source(changed).fingerprint != before
    assert array_source(images.reshape(10, 64, 48, 3)).fingerprint != before
