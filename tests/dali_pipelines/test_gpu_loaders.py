"""What DALI does otherwise on a GPU: its decoders, and their work next to a training step.

The tests of the other files run on a GPU too, by `each_backend` and `on_each_device`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet18

from dali_pipelines import PRESETS, Backend, Preset, Tuning, TwoViewLoader, ViewParams, array_source
from dali_pipelines.views.draws import draw_views
from tests.dali_pipelines import reference
from tests.devices import on_each_device

pytest.importorskip("nvidia.dali")

# The image alone, so that all of a difference is of the decoder; in levels.
DECODED = Preset(
    (
        ViewParams(
            size_px=96,
            crop_scale=(1.0, 1.0),
            flip_p=0,
            jitter_p=0,
            gray_p=0,
            blur_p=0,
            mean=(0.0,) * 3,
            std=(1 / 255,) * 3,
        ),
    )
)
BATCH = 32


@pytest.fixture(scope="module")
def files(photographs: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 JPEGs, all of them different."""
    folder = tmp_path_factory.mktemp("files")
    for number in range(256):
        pixels = np.roll(np.asarray(photographs[number % 5]), number, axis=1)
        Image.fromarray(pixels).save(folder / f"{number:03}.jpg", quality=90)
    return folder


def batches_under_load(files: Path, device: str, batches: int, load: float) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of the loader while a step trains, which is queued before each of them."""
    torch_device = torch.device("cuda" if device == "gpu" else "cpu")
    model = resnet18().to(torch_device)
    images = torch.randn((256 if device == "gpu" else 2), 3, 96, 96, device=torch_device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    backend = Backend("dali", device=device, tuning=Tuning(hw_decoder_load=load))  # type: ignore[arg-type]
    loader = TwoViewLoader(files, BATCH, DECODED, backend=backend)
    for batch in islice(chain.from_iterable(repeat(loader)), batches):
        nn.functional.mse_loss(model(images), torch.zeros(len(images), 1000, device=torch_device)).backward()
        optimizer.step()
        yield batch.filenames, batch.views[0].cpu()


@on_each_device
def test_the_hardware_decoder_decodes_as_the_software(files: Path, device: str) -> None:
    """While a step trains: the hardware decoder must wait for what it reads and writes."""
    batches = 50 if device == "gpu" else 2
    by_software = batches_under_load(files, device, batches, 0.0)
    by_hardware = batches_under_load(files, device, batches, 1.0)
    for number, ((names, one), (same, other)) in enumerate(zip(by_software, by_hardware)):
        assert names == same
        of_images = (one - other).abs().mean((1, 2, 3))
        worst = int(of_images.argmax())
        assert of_images.mean() < 1, f"batch {number}: {names[worst]} differs by {of_images[worst]:.1f} levels"
        assert other.std() > 10, "these are levels of photographs"


@on_each_device
@pytest.mark.parametrize("decode", ["once", "region"])
def test_batches_are_near_the_cpus(demo_data: Path, device: str, decode: str) -> None:
    preset = PRESETS["barlow_twins"].changed(size_px=64)
    backend = Backend("dali", device=device, tuning=Tuning(decode=decode))  # type: ignore[arg-type]
    here = next(iter(TwoViewLoader(demo_data / "train", 32, preset, backend=Backend("native", device="cpu"))))
    there = next(iter(TwoViewLoader(demo_data / "train", 32, preset, backend=backend)))
    assert here.filenames == there.filenames
    for first, second in zip(here.views, there.views):
        assert second.is_cuda == (device == "gpu")
        assert second.is_contiguous(memory_format=torch.channels_last)
        assert (first - second.cpu()).abs().mean() < 0.05


@on_each_device
@pytest.mark.parametrize("name", ["barlow_twins", "swav"])
def test_each_sample_has_its_own_steps(demo_data: Path, device: str, name: str) -> None:
    """The conditionals split a batch and merge it again. Arrays need no decoder, so PIL's views are near."""
    files = sorted((demo_data / "train").glob("*/*"))[::20]
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    preset = PRESETS[name].changed(size_px=64)
    backend = Backend("dali", device=device)  # type: ignore[arg-type]
    batch = next(iter(TwoViewLoader(array_source(images), 48, preset, backend=backend, seed=3)))
    for params, view, draws in zip(preset.views, batch.views, draw_views(preset.views, 48, 3, 0, 0)):
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (params.mean, params.std))
        levels = ((view.cpu() * std + mean) * 255).round().permute(0, 2, 3, 1).numpy()
        distances = []
        for row, index in enumerate(batch.filenames):
            expected = reference.view(Image.fromarray(images[int(index)]), draws, row, params)
            distances.append(np.abs(levels[row] - expected).mean())
        # As for files: PIL's blur by boxes and its hue in 8 bits.
        assert np.median(distances) < 0.8
        assert max(distances) < 4
