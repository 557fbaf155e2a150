"""Every recipe in the repository is valid, and says what it needs, how it is launched and what to expect."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from bt_plugin.config.recipe_file import load_recipe
from tests.conftest import REPOSITORY

PRETRAIN = sorted((REPOSITORY / "recipes" / "pretrain").glob("*.yaml"))
ACCELERATE = sorted((REPOSITORY / "recipes" / "accelerate").glob("*.yaml"))


def test_the_recipes_are_there() -> None:
    assert {file.stem for file in PRETRAIN} >= {
        "quickstart",
        "quickstart_vit",
        "cifar10_resnet18",
        "cifar100_resnet18",
        "stl10_resnet18",
        "imagenette_resnet18",
        "imagenette_vit_small16",
        "imagenet100_resnet18",
        "imagenet_resnet50_100ep",
        "imagenet_resnet50_1000ep",
        "imagenet_vit_small16",
    }
    assert {file.stem for file in ACCELERATE} >= {"cpu", "cpu_2proc", "1gpu", "8gpu", "multi_node"}


@pytest.mark.parametrize("file", PRETRAIN, ids=lambda file: file.stem)
def test_a_pretraining_recipe_is_valid(file: Path) -> None:
    recipe = load_recipe(file)
    assert recipe.run.output_dir == f"runs/{file.stem}"
    recipe.batch_size_per_rank(1)
    header = file.read_text().split("\n\n")[0]
    for part in ("# Needs:", "# Launch:", "# Expected:", f"recipes/pretrain/{file.name}"):
        assert part in header


def test_the_shortened_runs_on_a_cpu_are_valid() -> None:
    """The headers of the recipes for small data sets have a command that runs in minutes."""
    found = 0
    for file in PRETRAIN:
        for line in file.read_text().splitlines():
            if line.startswith("# On a CPU: "):
                launch, _, changes = line.partition(f" -m bt_plugin pretrain recipes/pretrain/{file.name} ")
                assert launch.endswith("--config_file recipes/accelerate/cpu.yaml")
                short, whole = load_recipe(file, shlex.split(changes)), load_recipe(file)
                assert short.optim.epochs < whole.optim.epochs
                assert short.run.mixed_precision == "no"
                found += 1
    assert found == 5


@pytest.mark.parametrize("file", ACCELERATE, ids=lambda file: file.stem)
def test_an_accelerate_configuration_is_valid(file: Path) -> None:
    assert load_config_from_file(str(file)) is not None
    text = file.read_text()
    assert f"--config_file recipes/accelerate/{file.name}" in text
    content = yaml.safe_load(text)
    # Launchers compare with the string; YAML would read a bare no as false.
    assert content["mixed_precision"] == "no"
    assert content["distributed_type"] in ("NO", "MULTI_GPU", "FSDP")


def test_the_paper_s_recipe_is_the_official_run_with_the_true_gradient() -> None:
    """facebookresearch/barlowtwins main.py:26-49 at 8e8d284, on 16 ranks: docs/design.md."""
    recipe = load_recipe(REPOSITORY / "recipes" / "pretrain" / "imagenet_resnet50_1000ep.yaml")
    optim = recipe.optim
    assert (optim.epochs, optim.warmup_epochs, optim.global_batch_size) == (1000, 10, 2048)
    assert (optim.lr_weights, optim.lr_biases) == (0.2, pytest.approx(0.0048 / 16))
    assert optim.weight_decay == pytest.approx(16 * 1e-6)
    assert recipe.loss.lambda_param == 0.0051
    assert recipe.model.projector == [8192, 8192, 8192]
    assert recipe.model.zero_init_residual
