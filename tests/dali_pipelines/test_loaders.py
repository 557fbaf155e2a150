"""Real JPEG files through the loaders, on DALI and on the native backend."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines import PRESETS, Backend, EvalLoader, EvalParams, TwoViewLoader, image_folder
from dali_pipelines.loaders import Batch
from dali_pipelines.sources import Subset
from dali_pipelines.views.draws import draw_views
from tests.dali_pipelines import reference
from tests.dali_pipelines.conftest import SMALL, assert_same, chosen, loader

pytestmark = pytest.mark.usefixtures("each_backend")


def test_batch_is_lightlys_structure_in_channels_last(small_data: Path) -> None:
    views, targets, filenames = next(iter(loader(small_data)))
    assert len(views) == 2
    for view in views:
        assert view.shape == (8, 3, 32, 32)
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
    source = image_folder(small_data / "train")
    assert [source.classes[target] for target in targets] == [name.split("/")[0] for name in filenames]
    assert not torch.equal(*views)


@pytest.mark.parametrize("name", ["barlow_twins", "swav"])
def test_views_are_the_official_transforms(demo_data: Path, name: str) -> None:
    """The whole graph equals PIL for the same random numbers: every step runs, in its drawn order."""
    preset = PRESETS[name].changed(size_px=64)
    ours = TwoViewLoader(demo_data / "train", 48, preset, backend=chosen(), seed=3)
    batch = next(iter(ours))
    for params, view, draws in zip(preset.views, batch.views, draw_views(preset.views, 48, 3, 0, 0)):
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (params.mean, params.std))
        levels = ((view.cpu() * std + mean) * 255).round().permute(0, 2, 3, 1).numpy()
        distances = []
        for row, name in enumerate(batch.filenames):
            expected = reference.view(Image.open(demo_data / "train" / name), draws, row, params)
            distances.append(np.abs(levels[row] - expected).mean())
        # Most of it is PIL's blur by boxes and its hue in 8 bits.
        assert np.median(distances) < 0.8
        assert max(distances) < 4


def test_one_channel_is_gray(small_data: Path) -> None:
    ours = TwoViewLoader(small_data / "train", 4, SMALL.changed(channels=1), backend=chosen())
    batch = next(iter(ours))
    assert batch.views[0].shape == (4, 1, 32, 32)
    assert -3 < batch.views[0].min() < batch.views[0].max() < 3


@pytest.mark.parametrize(("name", "sizes"), [("swav", [224] * 2 + [96] * 6), ("dino", [224] * 2 + [96] * 8)])
def test_multi_crop(small_data: Path, name: str, sizes: list[int]) -> None:
    batch = next(iter(TwoViewLoader(small_data / "train", 2, name, backend=chosen())))
    assert [tuple(view.shape) for view in batch.views] == [(2, 3, size, size) for size in sizes]
    assert len({view.sum().item() for view in batch.views}) == len(sizes), "each drawn by itself"


@pytest.mark.parametrize("every", [1, 2, 3])
def test_batches_stay_as_they_are_while_they_are_held(small_data: Path, every: int) -> None:
    """Zero-copy memory must not be written again by later batches; that of batches which are gone may."""
    ours = loader(small_data, 4)
    held = []
    for number, batch in enumerate(itertools.chain.from_iterable(ours for _ in range(3))):
        if number % every == 0:
            held.append((batch, [view.clone() for view in batch.views]))
    assert len(held) == -(-27 // every)
    for batch, copies in held:
        assert all(torch.equal(view, copy) for view, copy in zip(batch.views, copies))


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_are_the_batch_in_pieces(small_data: Path, micro_batches: int) -> None:
    whole, pieces = loader(small_data), loader(small_data, micro_batches=micro_batches)
    assert len(pieces) == micro_batches * len(whole)
    for _ in range(2):
        batches = iter(pieces)
        for batch in whole:
            parts = list(itertools.islice(batches, micro_batches))
            views = tuple(torch.cat(view) for view in zip(*(part.views for part in parts)))
            names = [name for part in parts for name in part.filenames]
            assert_same([batch], [Batch(views, torch.cat([part.targets for part in parts]), names)])
        assert next(batches, None) is None


def test_a_state_within_a_step_is_of_the_whole_step(small_data: Path) -> None:
    """And is taken up with another number of micro-batches."""
    pieces = loader(small_data, micro_batches=4)
    for _ in itertools.islice(pieces, 4 + 3):
        pass
    state = pieces.state_dict()
    assert (state["epoch"], state["step"]) == (0, 1)
    whole, resumed = loader(small_data), loader(small_data)
    resumed.load_state_dict(state)
    assert_same(list(resumed), list(whole)[1:])
    pieces.load_state_dict(state)
    assert next(iter(pieces)).filenames == next(itertools.islice(loader(small_data), 1, None)).filenames[:2]


@pytest.mark.parametrize("micro_batches", [0, 3])
def test_micro_batches_must_divide(small_data: Path, micro_batches: int) -> None:
    with pytest.raises(ValueError, match=rf"micro_batches: {micro_batches} .* divide batch_size_per_rank, 8"):
        loader(small_data, micro_batches=micro_batches)


def test_epochs_differ_in_order_and_views(small_data: Path) -> None:
    ours = loader(small_data)
    first, second = list(ours), list(ours)
    assert [batch.filenames for batch in first] != [batch.filenames for batch in second]
    view_of = [
        {name: view for batch in epoch for name, view in zip(batch.filenames, batch.views[0])}
        for epoch in (first, second)
    ]
    common = set(view_of[0]) & set(view_of[1])
    assert common
    assert not any(torch.equal(view_of[0][name], view_of[1][name]) for name in common)


@pytest.mark.parametrize(("n", "world_size", "batch_size"), [(401, 2, 50), (403, 4, 25), (401, 2, 40)])
def test_every_image_once_where_dalis_reader_fails(demo_data: Path, n: int, world_size: int, batch_size: int) -> None:
    source = Subset(image_folder(demo_data / "train"), np.arange(n))
    ranks = [
        TwoViewLoader(source, batch_size, SMALL, backend=chosen(), rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _ in range(2):
        seen = [list(itertools.chain.from_iterable(batch.filenames for batch in rank)) for rank in ranks]
        assert len({len(names) for names in seen}) == 1
        together = list(itertools.chain.from_iterable(seen))
        assert len(together) == len(set(together)) == n - n % (world_size * batch_size)


def test_ranks_see_the_one_ranks_global_batch(small_data: Path) -> None:
    """Images and augmentations of a step do not depend on the number of ranks."""
    alone = list(loader(small_data, 8))
    ranks = [list(loader(small_data, 4, rank=rank, world_size=2)) for rank in range(2)]
    for step, batch in enumerate(alone):
        parts = [rank[step] for rank in ranks]
        assert batch.filenames == parts[0].filenames + parts[1].filenames
        for position, view in enumerate(batch.views):
            assert torch.equal(view, torch.cat([part.views[position] for part in parts]))


@pytest.mark.parametrize("stop", range(9))
def test_a_resumed_stream_is_the_uninterrupted_one(small_data: Path, stop: int) -> None:
    """At every step of two epochs, edges included; another prefetch and thread count change nothing."""
    whole = list(itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader(small_data))), 12))
    first = loader(small_data)
    stream = itertools.chain.from_iterable(itertools.repeat(first))
    head = list(itertools.islice(stream, stop))
    state = first.state_dict()
    second = TwoViewLoader(
        small_data / "train",
        8,
        SMALL,
        backend=chosen(num_threads=1, prefetch=1),
    )
    second.load_state_dict(state)
    tail = list(itertools.islice(itertools.chain.from_iterable(itertools.repeat(second)), 12 - stop))
    assert_same(head + tail, whole)


def test_a_loader_that_ran_ahead_can_be_set_back(small_data: Path) -> None:
    ours = loader(small_data)
    state = ours.state_dict()
    first = list(ours)
    ours.load_state_dict(state)
    assert_same(list(ours), first)


def test_leaving_an_epoch_early_begins_the_next_one(small_data: Path) -> None:
    ours = loader(small_data)
    next(iter(ours))
    second_epoch = list(ours)
    other = loader(small_data)
    list(other)
    assert_same(second_epoch, list(other))
    assert ours.state_dict()["epoch"] == 2


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("global_batch_size", {"batch_size": 4}),
        ("seed", {"seed": 1}),
        ("views", {"size": 16}),
        ("n_samples", {"split": "val"}),
    ],
)
def test_a_state_of_another_stream_is_refused(small_data: Path, key: str, options: dict[str, int]) -> None:
    state = loader(small_data).state_dict()
    other = TwoViewLoader(
        small_data / str(options.get("split", "train")),
        options.get("batch_size", 8),
        SMALL.changed(size_px=options.get("size", 32)),
        backend=chosen(),
        seed=options.get("seed", 0),
    )
    with pytest.raises(ValueError, match=rf"{key}\)? was"):
        other.load_state_dict(state)


def test_a_state_of_as_many_other_images_is_refused(small_data: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (small_data / "train" / "coffee").iterdir())
    for folder in ("a", "b"):
        for number, name in enumerate(names):
            path = tmp_path / folder / "train" / f"{folder if number == 3 else 'c'}{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(small_data / "train" / "coffee" / name)
    state = loader(tmp_path / "a").state_dict()
    with pytest.raises(
        ValueError, match=r"the fingerprint of the images' names, labels, order and stored versions, .* \(source\) was"
    ):
        loader(tmp_path / "b").load_state_dict(state)


def test_a_state_goes_on_on_another_number_of_ranks(small_data: Path) -> None:
    """The global batch is the same, so the run is: only the slices are others."""
    alone = loader(small_data, 8)
    iterator = iter(alone)
    next(iterator)
    ranks = [loader(small_data, 4, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(alone.state_dict())
    expected = next(iterator)
    parts = [next(iter(rank)) for rank in ranks]
    assert expected.filenames == parts[0].filenames + parts[1].filenames


def test_eval_loader_sees_everything_in_order(small_data: Path) -> None:
    params = EvalParams(32, 36)
    ours = EvalLoader(small_data / "train", 10, params, backend=chosen())
    batches = list(ours)
    assert [len(batch.images) for batch in batches] == [10, 10, 10, 6]
    assert len(ours) == 4
    source = image_folder(small_data / "train")
    assert [name for batch in batches for name in batch.filenames] == list(source.names)
    assert torch.cat([batch.targets for batch in batches]).tolist() == source.labels.tolist()
    again = list(ours)
    assert torch.equal(torch.cat([b.images for b in batches]), torch.cat([b.images for b in again]))


def test_eval_loader_shares_what_does_not_divide(small_data: Path) -> None:
    names = [
        name
        for rank in range(5)
        for batch in EvalLoader(small_data / "train", 4, EvalParams(32, 36), backend=chosen(), rank=rank, world_size=5)
        for name in batch.filenames
    ]
    assert sorted(names) == sorted(image_folder(small_data / "train").names)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        *((suffix, "RGB") for suffix in (".jpg", ".png", ".bmp", ".tif", ".webp", ".jp2", ".ppm")),
        *((".png", mode) for mode in ("L", "P", "RGBA", "I;16")),
        *((".jpg", mode) for mode in ("L", "CMYK")),
        (".pgm", "L"),
    ],
)
def test_formats_that_count_as_images_are_read(tmp_path: Path, suffix: str, mode: str) -> None:
    ramp = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
    image = Image.fromarray(np.stack([ramp, ramp, ramp], axis=2))
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    image.save(tmp_path / f"ramp{suffix}")
    (batch,) = EvalLoader(tmp_path, 1, EvalParams(32, 32, mean=(0, 0, 0), std=(1, 1, 1)), backend=chosen())
    row = batch.images[0, :, 16].mean(0)
    assert batch.images.shape == (1, 3, 32, 32)
    # The centre of the ramp, from 1/6 to 5/6 of it; palettes and lossy formats are a few levels off.
    assert row[0].item() == pytest.approx(0.17 + 0.01, abs=0.05)
    assert row[-1].item() == pytest.approx(0.83 - 0.01, abs=0.05)


def test_bad_arguments_are_named(small_data: Path) -> None:
    with pytest.raises(ValueError, match="36 images do not fill one global batch of 37"):
        loader(small_data, 37)
    for options, named in (
        ({"device": "tpu"}, "device: 'tpu'"),
        ({"name": "torch"}, "backend: 'torch'"),
        ({"num_threads": 0}, "num_threads: 0"),
        ({"prefetch": 0}, "prefetch: 0"),
        ({"max_pixels": 0}, "max_pixels: 0 is not allowed; it must be 1 to 178956970"),
        ({"max_pixels": 200_000_000}, "max_pixels: 200000000"),
    ):
        with pytest.raises(ValueError, match=named):
            Backend(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backend: 'torch'"):
        loader(small_data, 2, backend="torch")
    with pytest.raises(ValueError, match="max_bad_files: -1"):
        loader(small_data, 2, max_bad_files=-1)
    with pytest.raises(ValueError, match="batch_size: 0"):
        EvalLoader(small_data / "train", 0, backend=chosen())


def test_without_dali(small_data: Path) -> None:
    """The packages import, the native backend works, and DALI's says what to install."""
    program = f"""
import sys
sys.modules["nvidia.dali"] = None
import bt_plugin, dali_pipelines
bt_plugin.BarlowTwinsLoss()
try:
    for batch in dali_pipelines.TwoViewLoader({str(small_data / "train")!r}, 36, backend=dali_pipelines.{chosen()!r}):
        print(len(batch.filenames), "images")
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    expected = {"dali": "pip install 'bt-plugin[cuda13]'", "native": "36 images"}
    assert expected[chosen().name] in result.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(small_data: Path) -> None:
    with pytest.raises(ValueError, match=r"device: gpu is not allowed here.*use auto or cpu"):
        TwoViewLoader(small_data / "train", 8, SMALL, backend=Backend(device="gpu"))
