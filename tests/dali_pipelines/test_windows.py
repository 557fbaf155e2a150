"""Images that are shuffled in windows of row groups: the batches are still a pure function of their position."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dali_pipelines import TwoViewLoader, image_folder, parquet_files
from dali_pipelines.sources import Relabeled
from tests.dali_pipelines.conftest import SMALL, assert_same, chosen
from tests.parquet_files import write_parquet, write_set


@pytest.fixture
def pattern(small_data: Path, tmp_path: Path) -> str:
    """36 images in two files, with row groups of four."""
    return write_set(image_folder(small_data / "train"), tmp_path, files=2, rows=4)


def loader(pattern: str, batch_size: int = 6, window: int | None = 12, **options: int) -> TwoViewLoader:
    # A cache of one row group: what is decoded again must not change the images.
    source = parquet_files(pattern, cache_gib=1e-9)
    return TwoViewLoader(source, batch_size, SMALL, backend=chosen(num_threads=2), shuffle_window=window, **options)


def test_each_epoch_has_every_image_once_in_windows(pattern: str) -> None:
    ours = loader(pattern)
    epochs = [[name for batch in ours for name in batch.filenames] for _ in range(2)]
    assert epochs[0] != epochs[1]
    place_of = {name: place for place, name in enumerate(ours.source.names)}
    for names in epochs:
        assert sorted(names, key=place_of.__getitem__) == list(ours.source.names)
        for first in range(0, 36, 12):
            groups = {place_of[name] // 18 * 5 + place_of[name] % 18 // 4 for name in names[first : first + 12]}
            assert len(groups) <= 5, "a window has three row groups, and parts of two at its edges"


@pytest.mark.parametrize("window", [12, None])
def test_two_ranks_that_resume_in_mid_epoch_see_the_batches_of_one(pattern: str, window: int | None) -> None:
    whole = loader(pattern, window=window)
    expected = [*whole, *whole]
    first = loader(pattern, window=window)
    batches = iter(first)
    begun = [next(batches), next(batches)]
    state = first.state_dict()
    assert state.get("window") == window
    ranks = [loader(pattern, 3, window=window, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(state)
    resumed = [[*rank, *rank] for rank in ranks]
    assert_same(begun, expected[:2])
    assert len(resumed[0]) == len(expected) - 2
    for batch, one, two in zip(expected[2:], *resumed):
        assert batch.filenames == one.filenames + two.filenames
        for view, of_one, of_two in zip(batch.views, one.views, two.views):
            assert torch.equal(view, torch.cat([of_one, of_two]))


@pytest.mark.parametrize(("before", "after"), [(12, None), (None, 12), (12, 8)])
def test_a_state_of_another_window_is_refused(pattern: str, before: int | None, after: int | None) -> None:
    state = loader(pattern, window=before).state_dict()
    with pytest.raises(ValueError, match=rf"loader state: shuffle_window was {before} and is {after} now"):
        loader(pattern, window=after).load_state_dict(state)


def test_windows_that_are_not_possible_are_named(small_data: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match="shuffle_window: 0 is not allowed; it must be 1 or more"):
        loader(pattern, window=0)
    with pytest.raises(ValueError, match="shuffle_window: 5 is not allowed, because the source reads each image alone"):
        TwoViewLoader(small_data / "train", 8, SMALL, backend=chosen(), shuffle_window=5)


def test_a_window_that_does_not_stay_in_memory_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [bytes(3000 + number) for number in range(100)]
    path = write_parquet(tmp_path / "a.parquet", images, [0] * 100, classes=["a"], rows=10)
    source = parquet_files(path, cache_gib=60 * 3000 / 2**30)
    assert source.kept_images is not None
    assert 0 < source.kept_images < 60
    for each in (source, Relabeled(source, ("b", "a"))):
        for window, rank, warns in ((source.kept_images, 0, False), (80, 1, False), (80, 0, True)):
            caplog.clear()
            TwoViewLoader(each, 8, SMALL, backend=chosen(), shuffle_window=window, rank=rank, world_size=2)
            assert (f"use at most {source.kept_images}" in caplog.text) is warns
