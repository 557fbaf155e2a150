"""Loaders of several sources: the same batches as of one folder, how often each image is seen, and resuming."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines import (
    EvalLoader,
    EvalParams,
    TwoViewLoader,
    array_source,
    image_folder,
    open_source,
    several_sources,
)
from dali_pipelines.loaders import Batch
from dali_pipelines.sources import ImageSource
from tests.dali_pipelines.conftest import SMALL, assert_same, chosen
from tests.tar_files import write_shard

# Images of the parts of the demo data: two folders and a tar shard, one class each.
CLASSES = ("chelsea", "coffee", "rocket")


@pytest.fixture(scope="module")
def parts(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The training images of small_data, 12 in each of a folder, another folder and a shard."""
    root = tmp_path_factory.mktemp("parts")
    paths = [root / "a", root / "b", root / "c.tar"]
    for path, name in zip(paths[:2], CLASSES):
        path.mkdir()
        (path / name).symlink_to(small_data / "train" / name)
    members = {}
    for file in sorted((small_data / "train" / CLASSES[2]).iterdir()):
        members[file.name] = file.read_bytes()
        members[f"{file.stem}.cls"] = CLASSES[2].encode()
    write_shard(paths[2], members)
    return paths


def of(source: ImageSource | list[Path], batch_size: int = 8, **options: Any) -> TwoViewLoader:
    return TwoViewLoader(source, batch_size, SMALL, backend=chosen(num_threads=2), **options)


def weighted(parts: list[Path], *weights: float) -> ImageSource:
    return several_sources([open_source(path) for path in parts], weights)


def epochs(loader: TwoViewLoader, count: int) -> list[Batch]:
    return list(itertools.chain.from_iterable(loader for _ in range(count)))


def file_names(batches: list[Batch]) -> list[str]:
    return [name.rpartition("/")[2] for batch in batches for name in batch.filenames]


def test_batches_are_those_of_one_folder_with_all_images(small_data: Path, parts: list[Path]) -> None:
    several, folder = epochs(of(parts), 2), epochs(of(image_folder(small_data / "train")), 2)
    assert file_names(several) == file_names(folder)
    for one, other in zip(several, folder, strict=True):
        assert torch.equal(one.targets, other.targets)
        for view, same in zip(one.views, other.views, strict=True):
            assert torch.equal(view, same)


@pytest.mark.usefixtures("each_backend")
def test_pixels_next_to_files_are_the_same_bits(small_data: Path, parts: list[Path]) -> None:
    """Which are handed over as PPM, to DALI and to the native backend."""
    files = sorted((small_data / "train" / "chelsea").iterdir())
    images = np.stack([np.asarray(Image.open(file).resize((40, 30))) for file in files])
    mixed = several_sources([image_folder(parts[1]), array_source(images)])
    other = several_sources([array_source(np.zeros((12, 30, 40, 3), np.uint8)), array_source(images)])
    assert (mixed.kind, other.kind) == ("encoded", "pixels")
    pairs = zip(epochs(of(mixed), 1), epochs(of(other), 1), strict=True)
    rows = 0
    for one, same in pairs:
        assert one.filenames != same.filenames
        for row, name in enumerate(one.filenames):
            if name.startswith("1/"):
                rows += 1
                assert name == same.filenames[row]
                assert all(torch.equal(a[row], b[row]) for a, b in zip(one.views, same.views))
    assert rows >= 10
    batches = list(EvalLoader(mixed, 5, EvalParams(24, 24), backend=chosen()))
    alone = list(EvalLoader(array_source(images), 12, EvalParams(24, 24), backend=chosen()))
    assert torch.equal(torch.cat([batch.images for batch in batches])[12:], alone[0].images)


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_sees_every_image_once(parts: list[Path], world_size: int) -> None:
    ranks = [of(parts, 6 // world_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(2):
        seen = [name for rank in ranks for batch in rank for name in batch.filenames]
        assert sorted(seen) == sorted(ranks[0].source.names)


@pytest.mark.parametrize("world_size", [1, 2])
def test_weights_say_how_often_an_epoch_sees_an_image(parts: list[Path], world_size: int) -> None:
    weights = (2.0, 0.75, 1 / 3)
    source = weighted(parts, *weights)
    assert (len(source), source.epoch_length) == (36, 24 + 9 + 4)
    batch_size = 36 // world_size
    ranks = [of(source, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [len(rank) for rank in ranks] == [1] * world_size, "one image is dropped each epoch"
    seen = Counter(name for rank in ranks for batch in epochs(rank, 5) for name in batch.filenames)
    assert sum(seen.values()) == 5 * 36
    dropped = 0
    for number, weight in enumerate(weights):
        counts = [seen[name] for name in source.names if name.startswith(f"{number}/")]
        assert len(counts) == 12
        assert max(counts) <= math.ceil(5 * weight)
        dropped += sum(max(0, math.floor(5 * weight) - count) for count in counts)
    assert dropped <= 5


def test_ranks_see_the_one_ranks_global_batch(parts: list[Path]) -> None:
    source = weighted(parts, 1, 2, 0.5)
    alone = epochs(of(source, 6), 1)
    ranks = [epochs(of(source, 3, rank=rank, world_size=2), 1) for rank in range(2)]
    for whole, *halves in zip(alone, *ranks, strict=True):
        assert whole.filenames == halves[0].filenames + halves[1].filenames
        assert torch.equal(whole.views[0], torch.cat([half.views[0] for half in halves]))


def resumed(parts: list[Path], stop: int, count: int) -> list[Batch]:
    """Batches 0 to count - 1, from `stop` on by another loader that takes the state of the first."""
    loaders = [of(weighted(parts, 1, 2, 0.5), 7) for _ in range(2)]
    first, second = (itertools.chain.from_iterable(itertools.repeat(loader)) for loader in loaders)
    head = list(itertools.islice(first, stop))
    loaders[1].load_state_dict(loaders[0].state_dict())
    return head + list(itertools.islice(second, count - stop))


@pytest.mark.parametrize("stop", [5, 6, 8])
def test_a_resumed_stream_is_the_uninterrupted_one(parts: list[Path], stop: int) -> None:
    """In mid-epoch, at an epoch's edge, and in the next epoch, whose turns begin where the first has ended."""
    whole = epochs(of(weighted(parts, 1, 2, 0.5), 7), 2)
    assert len(whole) == 12
    assert_same(resumed(parts, stop, 12), whole)


@pytest.mark.usefixtures("each_backend")
def test_each_backend_resumes_in_mid_epoch(parts: list[Path]) -> None:
    assert_same(resumed(parts, 2, 4), epochs(of(weighted(parts, 1, 2, 0.5), 7), 1)[:4])


def test_a_state_of_other_sources_is_refused(parts: list[Path]) -> None:
    plain, heavy = of(parts).state_dict(), of(weighted(parts, 1, 2, 0.5)).state_dict()
    for state, source, named in (
        (plain, weighted(parts, 1, 2, 0.5), r"\(weights\) was None and is \[1\.0, 2\.0, 0\.5\] now"),
        (heavy, weighted(parts, 1, 2, 0.75), r"\(weights\) was \[1\.0, 2\.0, 0\.5\] and is \[1\.0, 2\.0, 0\.75\] now"),
        (heavy, weighted(parts, 1, 1, 1), r"\(weights\) was \[1\.0, 2\.0, 0\.5\] and is None now"),
        (plain, parts[::-1], r"images' names, labels, order and stored versions, .* of the sources \(source\)"),
        (plain, parts[:2], r"the number of images \(n_samples\) was 36 and is 24 now"),
    ):
        with pytest.raises(ValueError, match=named):
            of(source).load_state_dict(state)


def test_a_state_of_an_older_version_loads(small_data: Path) -> None:
    """It has no keys for weights and windows."""
    ours = of(image_folder(small_data / "train"))
    state = ours.state_dict()
    assert set(state) == {"epoch", "step", "n_samples", "source", "global_batch_size", "seed", "views"}
    ours.load_state_dict({**state, "step": 2})
    assert len(list(ours)) == 2


def test_evaluations_see_every_image_once_whatever_the_weights(parts: list[Path]) -> None:
    source = weighted(parts, 2, 0.5, 1)
    ranks = [EvalLoader(source, 5, EvalParams(8, 8), backend=chosen(), rank=rank, world_size=2) for rank in range(2)]
    seen = [name for rank in ranks for batch in rank for name in batch.filenames]
    assert sorted(seen) == sorted(source.names)
