"""What can be evaluated, and what is said of what cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file, save_file
from torchvision import models

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.evaluation.evaluated_model import open_model
from bt_plugin.training.pretrain import pretrain


@pytest.fixture
def run_dir(small_recipe: Path, tmp_path: Path) -> Path:
    AcceleratorState._reset_state()
    PartialState._reset_state()
    pretrain(load_recipe(small_recipe, ["run.max_steps=2", "run.checkpoint_every_steps=1", "eval.knn=false"]))
    return tmp_path / "run"


def test_a_run_brings_its_weights_its_view_and_its_data(run_dir: Path, small_data: Path) -> None:
    subject = open_model(str(run_dir))
    exported = load_file(run_dir / "export" / "backbone.safetensors")
    assert all(torch.equal(value, exported[key]) for key, value in subject.backbone.state_dict().items())
    assert subject.feature_dim == 1024
    assert subject.defaults["view"]["size_px"] == 32
    assert subject.defaults["data"]["train"] == f"{small_data}/train"
    assert subject.output_dir == run_dir / "eval"
    assert open_model(str(run_dir / "export")).output_dir == run_dir / "eval"


def test_a_checkpoint_has_the_weights_of_its_step(run_dir: Path) -> None:
    last = open_model(str(run_dir / "checkpoint-2"))
    exported = load_file(run_dir / "export" / "backbone.safetensors")
    assert all(torch.equal(value, exported[key]) for key, value in last.backbone.state_dict().items())
    first = open_model(str(run_dir / "checkpoint-1"))
    assert any(not torch.equal(value, exported[key]) for key, value in first.backbone.state_dict().items())
    defaults = [json.dumps(each.defaults) for each in (first, last, open_model(str(run_dir)))]
    assert defaults[0] == defaults[1] == defaults[2]
    assert first.feature_dim == 1024


def test_a_run_that_is_not_done_names_its_checkpoint(run_dir: Path) -> None:
    (run_dir / "export" / "model.json").unlink()
    with pytest.raises(
        RecipeError, match=r"contains no export/model\.json; the run is not complete; use .*checkpoint-2"
    ):
        open_model(str(run_dir))


def test_a_file_of_weights(tmp_path: Path) -> None:
    theirs = models.resnet18()
    theirs.fc = torch.nn.Identity()
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    subject = open_model(str(tmp_path / "weights.safetensors"))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(subject.backbone.eval()(images), theirs.eval()(images))
    assert (subject.feature_dim, subject.output_dir) == (512, Path("eval/weights"))


def test_a_network_by_its_name_is_random_by_seed() -> None:
    one, same, other = (open_model("torchvision/resnet18", seed=seed).backbone.state_dict() for seed in (0, 0, 1))
    assert torch.equal(one["conv1.weight"], same["conv1.weight"])
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no such model; give a run's directory"),
        ("torchvision/resnet19", r"does not exist; did you mean resnet18"),
        (".", r"contains no export/model\.json; give a run's directory or its export"),
    ],
)
def test_what_is_not_there_is_told(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=message):
        open_model(name)
