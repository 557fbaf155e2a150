"""Two runs, and the page about them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, PartialState

from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_as
from bt_plugin.report.write import write_report
from bt_plugin.training.pretrain import pretrain

# A name that would be markup where somebody forgot to escape it.
NAMES = ("one", "a&b <i>two")


@pytest.fixture(scope="session")
def runs(small_data: Path, trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of three epochs of four steps, evaluated after each; the second has a lambda of its own."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(trained_run, folder / NAMES[0])
    AcceleratorState._reset_state()
    PartialState._reset_state()
    pretrain(recipe_of(folder / NAMES[1], small_data, 0.05))
    return [folder / name for name in NAMES]


def recipe_of(output_dir: Path, data: Path, lambda_param: float = 0.005) -> Recipe:
    content = {
        "data": {"train": f"{data}/train", "val": f"{data}/val", "num_threads": 1},
        "views": {"both": {"size_px": 32}},
        "model": {"backbone": "torchvision/shufflenet_v2_x0_5", "projector": [32, 32]},
        "loss": {"lambda_param": lambda_param},
        "optim": {"epochs": 3, "warmup_epochs": 1, "global_batch_size": 8, "lr_biases": 0.01},
        "run": {"output_dir": str(output_dir), "device": "cpu", "log_every_steps": 1},
        "eval": {"knn_k": 5, "every_epochs": 1},
    }
    return load_as(Recipe, None, overrides=[], beneath=content)


@pytest.fixture
def copied(runs: list[Path], tmp_path: Path) -> Path:
    """A copy of the first run, to be changed."""
    return Path(shutil.copytree(runs[0], tmp_path / "run"))


@pytest.fixture(scope="session")
def page_of_one(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("page") / "one.html"
    write_report(runs[:1], output, map_images=100)
    return output


@pytest.fixture(scope="session")
def page_of_two(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("page") / "two.html"
    write_report(runs, output, map_images=100)
    return output
