"""A step that is not finite is captured once, and runs again from its files alone."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file, save_file
from torch import nn

from bt_plugin.cli import main
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.data.from_recipe import build_loader, open_sources
from bt_plugin.errors import FileError, WeightsError
from bt_plugin.models.from_recipe import build_model
from bt_plugin.runtime.accelerator import build_accelerator
from bt_plugin.tools.replay import replay
from bt_plugin.training.nonfinite_capture import NonFiniteCapture
from bt_plugin.training.step import TrainStep
from tests.forks import run_forked

# It has a dropout, so that a replay needs the random states.
DROPOUT = "model.backbone=torchvision/mobilenet_v3_small"


def stepping(recipe: Path, *overrides: str) -> tuple[TrainStep, list]:  # type: ignore[type-arg]
    """A step that captures, and the batches of an epoch."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    loaded = load_recipe(recipe, list(overrides))
    accelerator = build_accelerator(loaded.run)
    capture = NonFiniteCapture(loaded, accelerator)
    train_step = TrainStep(loaded, accelerator, build_model(loaded), capture=capture)
    source, _ = open_sources(loaded)
    return train_step, list(build_loader(loaded, source, accelerator))


def test_a_captured_step_is_that_of_the_run(small_recipe: Path, tmp_path: Path) -> None:
    """The loss with its dropout, the weights and statistics before the step; and only the first step."""
    train_step, batches = stepping(small_recipe, DROPOUT)
    train_step([batches[0]])
    assert not (tmp_path / "run" / "nonfinite").exists()
    before = {name: value.clone() for name, value in train_step.model.state_dict().items()}
    hook = next(train_step.model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    loss = train_step([batches[1]]).loss
    train_step([batches[2]])
    hook.remove()
    (folder,) = (tmp_path / "run" / "nonfinite").iterdir()
    assert folder.name == "step-2"
    weights = load_file(folder / "weights.safetensors")
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[name], value) for name, value in before.items())
    views = load_file(folder / "rank-0.safetensors")
    assert torch.equal(views["view_a"][0], batches[1].views[0])

    torch.manual_seed(5)
    found = replay(folder)
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert found.is_finite, "the hook is no part of the step"
    assert found.step.names == [list(batches[1].filenames)]
    assert (found.views, found.weights, found.gradients, found.backward) == ([], [], [], None)
    assert found.outputs[-1].module == "the whole model"

    again, _ = stepping(small_recipe, DROPOUT)
    next(again.model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    again([batches[3]])
    assert [path.name for path in folder.parent.iterdir()] == ["step-2"], "once in a run"


def test_the_module_is_found(small_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where numbers overflow; in another precision; in a finite step; and in damaged files."""
    train_step, batches = stepping(small_recipe)
    weight = train_step.model.projector[3].weight
    with torch.no_grad():
        weight.mul_(3e38)
    train_step([batches[0]])
    folder = tmp_path / "run" / "nonfinite" / "step-1"
    assert main(["replay", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (first,) = (line for line in lines if "<- first" in line)
    assert first.split()[0] == "projector.3"
    assert any("projector.2 " in line for line in lines)
    assert lines[-2].startswith("parameters whose gradients are not finite: backbone.")
    assert lines[-1] == "The step is not finite here either"

    weights = load_file(folder / "weights.safetensors")
    weights["projector.3.weight"] *= 1e6 / 3e38
    save_file(weights, folder / "weights.safetensors")
    assert main(["replay", str(folder)]) == 1
    assert capsys.readouterr().out.endswith("Compare precision, device and versions with those of the run\n")
    found = replay(folder, "fp16")
    assert found.outputs[-1].module == "projector.3"
    assert found.outputs[-1].nonfinite > 0

    for name, content, says in (
        ("step.json", "{}", "is damaged"),
        ("rank-0.safetensors", None, "is no file of a rank"),
        ("weights.safetensors", None, "weights.safetensors"),
    ):
        copied = tmp_path / name
        shutil.copytree(folder, copied)
        (copied / name).write_text(content) if content else (copied / name).unlink()
        with pytest.raises(FileError, match=says):
            replay(copied)
    with pytest.raises(FileError, match=r"has no step.json. Give a folder RUN/nonfinite/step-STEP"):
        replay(tmp_path / "run")

    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("torchvision/shufflenet_v2_x0_5", "stranger:network"))
    with pytest.raises(WeightsError, match=r"stranger:network is a function\. A file's function is not imported"):
        replay(folder)


def test_the_backward_pass_is_traced(small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose gradient is not finite is named, and what comes before it in the network is not finite either."""

    class Cliff(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.inf

    class CliffLayer(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = Cliff.apply(x)
            return result

    def built(recipe: object, backbone: object) -> nn.Module:
        model = build_model(recipe)  # type: ignore[arg-type]
        model.projector[2] = CliffLayer()
        return model

    train_step, batches = stepping(small_recipe)
    train_step.model.projector[2] = CliffLayer()
    train_step([batches[0]])
    monkeypatch.setattr("bt_plugin.tools.replay.build_model", built)
    found = replay(tmp_path / "run" / "nonfinite" / "step-1")
    assert found.backward == "projector.1"
    assert math.isfinite(found.loss)
    assert not found.is_finite
    assert "projector.0.weight" in found.gradients
    assert "projector.3.weight" not in found.gradients


def test_a_full_disk_does_not_end_the_run(small_recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "nonfinite").write_text("a file where the folder must be")
    recipe = load_recipe(small_recipe)
    capture = NonFiniteCapture(recipe, build_accelerator(recipe.run))
    capture.before([(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))])
    capture.after(1, torch.ones(()), nn.Linear(2, 2), ["a.jpg", "b.jpg"])
    assert "step 1 is not finite, and could not be captured" in caplog.text


@pytest.mark.distributed
def test_ranks_and_micro_batches(small_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NaN in the first of two micro-batches of rank 1, in step 2."""
    options = ["run.capture_nonfinite=true", "run.max_steps=3", "optim.accumulation_steps=2", "eval.knn=false"]
    result = run_forked(2, "tests.poisoned", "pretrain", str(small_recipe), *options, POISON_RANK="1", POISON_STEPS="3")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "run" / "nonfinite" / "step-2"
    assert result.stderr.count(f"step 2 is not finite. To run it again: bt-plugin replay {folder}") == 1
    found = replay(folder)
    assert found.views == found.step.names[1][:2]
    assert found.outputs[-1].images
    assert not found.is_finite
    assert main(["replay", str(folder / "rank-0.safetensors")]) == 1, "its views are fine"
    assert "step 2: 4 images of 1 of 2 ranks" in capsys.readouterr().out
