"""A map-style dataset gives the same views as the files that it reads, and its mistakes are named."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import ImageFolder

from dali_pipelines import Backend, BadImageError, TwoViewLoader, dataset_source, image_folder
from dali_pipelines.views.params import PRESETS


class Items:
    """A dataset of given items. An item that is an error is raised."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


def pixels(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", ["native", "dali"])
def test_the_views_are_those_of_the_files(small_data: Path, name: Any) -> None:
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    files, dataset = image_folder(small_data / "train"), dataset_source(ImageFolder(small_data / "train"))
    assert dataset.classes == files.classes
    options: dict[str, Any] = {"views": PRESETS["barlow_twins_32"], "backend": Backend(name, num_threads=1), "seed": 3}
    for ours, theirs in zip(TwoViewLoader(dataset, 8, **options), TwoViewLoader(files, 8, **options), strict=True):
        assert torch.equal(ours.targets, theirs.targets)
        for view, reference in zip(ours.views, theirs.views):
            # DALI decodes the JPEGs by another library than PIL.
            torch.testing.assert_close(view, reference, atol=0.0 if name == "native" else 0.05, rtol=0.0)


def test_a_stream_resumes_in_the_middle_of_an_epoch(small_data: Path) -> None:
    source = dataset_source(ImageFolder(small_data / "train"))
    options: dict[str, Any] = {"views": PRESETS["barlow_twins_32"], "backend": Backend("native", num_threads=1)}
    whole = TwoViewLoader(source, 8, **options)
    batches = iter(whole)
    next(batches)
    state = whole.state_dict()
    resumed = TwoViewLoader(dataset_source(ImageFolder(small_data / "train")), 8, **options)
    resumed.load_state_dict(state)
    for rest, expected in zip(resumed, batches, strict=True):
        assert rest.filenames == expected.filenames
        assert torch.equal(rest.views[0], expected.views[0])


def test_arrays_gray_and_channels() -> None:
    gray = dataset_source(Items([pixels(0, 5, 4), pixels(1, 5, 4, 1), Image.fromarray(pixels(2, 6, 3))]))
    assert gray.channels == 3
    assert [gray.read(index).shape for index in range(3)] == [(5, 4, 3), (5, 4, 3), (6, 3, 3)]
    np.testing.assert_array_equal(gray.read(0)[..., 1], pixels(0, 5, 4))
    many = dataset_source(Items([pixels(0, 5, 4, 7), pixels(1, 5, 4, 3)]))
    assert many.channels == 7
    with pytest.raises(ValueError, match="the image has 3 channels, and the others have 7"):
        many.read(1)
    assert gray.labels.tolist() == [-1, -1, -1]
    assert not gray.has_labels


def test_labels_come_from_attributes_of_the_whole_dataset(small_data: Path) -> None:
    whole = ImageFolder(small_data / "train")
    part = dataset_source(Subset(whole, [30, 2, 15]))
    assert part.classes == tuple(whole.classes)
    assert part.labels.tolist() == [whole.targets[index] for index in (30, 2, 15)]


def test_labels_of_items_are_collected_and_the_cost_is_said(caplog: pytest.LogCaptureFixture) -> None:
    items = Items([(pixels(seed, 4, 4, 3), np.int64(seed % 2 + 5), "name") for seed in range(4)])
    with caplog.at_level(logging.WARNING):
        source = dataset_source(items)
    assert source.labels.tolist() == [0, 1, 0, 1]
    assert source.classes == ("5", "6")
    assert "its 4 items are read once" in caplog.text
    assert dataset_source(items, labels=[1, 1, 0, 0], classes=["a", "b"]).labels.tolist() == [1, 1, 0, 0]


def test_the_fingerprint_is_that_of_the_pixels() -> None:
    first, same, other = ([pixels(seed, 4, 4, 3) for seed in seeds] for seeds in ((0, 1), (0, 1), (0, 2)))
    assert dataset_source(Items(first)).fingerprint == dataset_source(Items(same)).fingerprint
    assert dataset_source(Items(first)).fingerprint != dataset_source(Items(other)).fingerprint


def test_a_bad_item_is_replaced_like_a_bad_file(caplog: pytest.LogCaptureFixture) -> None:
    items = [pixels(seed, 40, 40, 3) for seed in range(8)]
    source = dataset_source(Items([OSError("no such row"), *items[1:]]))
    options: dict[str, Any] = {"views": PRESETS["barlow_twins_32"], "backend": Backend("native", num_threads=1)}
    assert len(list(TwoViewLoader(source, 4, max_bad_files=1, **options))) == 2
    assert "item 0 of the Items: OSError: no such row" in caplog.text
    with pytest.raises(BadImageError, match="item 0 of the Items"):
        list(TwoViewLoader(source, 4, max_bad_files=0, **options))


class Random(Items):
    def __getitem__(self, index: int) -> Any:
        return np.random.default_rng().integers(0, 256, (4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Items([]), "Items has no items"),
        (iter([1]), "list_iterator is not a map-style dataset"),
        (Items([torch.zeros(3, 4, 4)]), "the image is a Tensor; return a PIL image or an array"),
        (TensorDataset(torch.zeros(2, 3, 4, 4)), "item 0 of the TensorDataset: ValueError: the image is a Tensor"),
        (Items([np.zeros((4, 4, 3))]), r"array of \(4, 4, 3\) float64"),
        (Items([{"image": pixels(0, 4, 4, 3)}]), "the image is a dict"),
        (Items([KeyError("lost")]), "item 0 of the Items: KeyError: 'lost'"),
        (Random([1, 2]), "another image each time; remove its random transform"),
        (Items([(pixels(0, 4, 4, 3), 1), pixels(1, 4, 4, 3)]), "item 1 of the Items has no label"),
    ],
)
def test_what_cannot_be_read_is_named(dataset: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataset_source(dataset)


def test_wrong_labels_are_named() -> None:
    items = Items([pixels(0, 4, 4, 3), pixels(1, 4, 4, 3)])
    with pytest.raises(ValueError, match=r"labels: 0 to 2 must be indices of the 2 classes"):
        dataset_source(items, labels=[0, 2], classes=["a", "b"])
    with pytest.raises(ValueError, match=r"it must be \(2,\) of integers"):
        dataset_source(items, labels=[0])
