"""Real photographs, a small data set of them, and a recipe that trains on it in seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]

THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
# Two at a time on two cores: a core for each, and for what it starts. Threads that wait for those of the other spin.
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(cores)]})
    THREADS = 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    of_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not of_gpu:
        return
    import torch

    for item in of_gpu if not torch.cuda.is_available() else ():
        item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report names that are not UTF-8, which xdist cannot send from one process to another, by escapes."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    if report.longrepr is not None and not report.longreprtext.isascii():
        report.longrepr = report.longreprtext.encode(errors="backslashreplace").decode()
    return report


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start each test with the same random numbers and threads, whichever tests ran before it."""
    # Tests of recipes and of the command line's errors need no torch, whose import takes seconds.
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole demo data set."""
    from bt_plugin.data.demo_data import write_demo_data

    folder = tmp_path_factory.mktemp("demo") / "data"
    write_demo_data(folder)
    return folder


@pytest.fixture(scope="session")
def photographs() -> list[Image.Image]:
    """Five photographs at 320 x 240, whole ones, so that every operator meets all tones."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    arrays = [data.astronaut(), data.coffee(), data.chelsea(), load_sample_image("china.jpg")]
    arrays.append(load_sample_image("flower.jpg"))
    return [Image.fromarray(array).resize((320, 240), Image.Resampling.LANCZOS) for array in arrays]


@pytest.fixture(scope="session")
def small_data(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of the demo data: train 3 x 12 images, val 3 x 4."""
    root = tmp_path_factory.mktemp("small")
    for split, count in (("train", 12), ("val", 4)):
        for name in ("chelsea", "coffee", "rocket"):
            (root / split / name).mkdir(parents=True)
            for file in sorted((demo_data / split / name).iterdir())[:count]:
                (root / split / name / file.name).symlink_to(file)
    return root


SMALL_RECIPE = """
data: {{train: {data}/train, val: {data}/val, num_threads: 1}}
views: {{both: {{size_px: 32}}}}
model: {{backbone: torchvision/shufflenet_v2_x0_5, projector: [32, 32]}}
optim: {{epochs: 3, warmup_epochs: 1, global_batch_size: 8, lr_biases: 0.01}}
run: {{output_dir: {output_dir}, device: cpu, log_every_steps: 1}}
eval: {{knn_k: 5}}
"""


@pytest.fixture
def small_recipe(small_data: Path, tmp_path: Path) -> Path:
    """A recipe of three epochs of four steps each, on the small data, that writes to tmp_path/run."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_RECIPE.format(data=small_data, output_dir=tmp_path / "run"))
    return path


@pytest.fixture(scope="session")
def trained_run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run of the small recipe, evaluated after each of its three epochs. It is shared: only read it."""
    from accelerate.state import AcceleratorState, PartialState

    from bt_plugin.config.recipe_file import load_recipe
    from bt_plugin.training.pretrain import pretrain

    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(SMALL_RECIPE.format(data=small_data, output_dir=folder / "run"))
    AcceleratorState._reset_state()
    PartialState._reset_state()
    pretrain(load_recipe(folder / "small.yaml", ["eval.every_epochs=1"]))
    return folder / "run"


@pytest.fixture(scope="session")
def small_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's directory with the export of an untrained ResNet-18."""
    from bt_plugin.config.recipe import Recipe
    from bt_plugin.models.from_recipe import build_model
    from bt_plugin.weights.export_folder import write_run_export

    run_dir = tmp_path_factory.mktemp("exported") / "run"
    run_dir.mkdir()
    recipe = Recipe.model_validate(
        {
            "data": {"train": "images"},
            "model": {"backbone": "torchvision/resnet18", "projector": [8]},
            "run": {"output_dir": str(run_dir)},
        }
    )
    write_run_export(build_model(recipe), recipe, run_dir=run_dir, step=0)
    return run_dir


def write_image(path: Path, array: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path
