"""Whole runs with networks of the user's own, and with arguments: their export, their evaluation and their resume."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import onnx
import pytest
import timm
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import nn

import bt_plugin
from bt_plugin.cli import main
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError, WeightsError
from bt_plugin.evaluation.evaluated_model import open_model
from bt_plugin.formats import convert
from bt_plugin.models.from_recipe import build_model
from bt_plugin.tools.doctor import examine_recipe
from bt_plugin.training.pretrain import pretrain
from bt_plugin.weights.checkpoint_file import read_safetensors
from bt_plugin.weights.export_folder import load_backbone
from bt_plugin.weights.model_file import read_model_file
from bt_plugin.weights.read_weights import read_weights
from tests.bt_plugin.models.own_networks import NAME, SOURCE
from tests.conftest import SMALL_RECIPE

SHORT = ["run.max_steps=2", "optim.global_batch_size=18", "optim.warmup_epochs=0"]
OWN = f"{NAME}:flat"
IMAGES = torch.zeros(2, 3, 32, 32)


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    AcceleratorState._reset_state()
    PartialState._reset_state()
    yield
    sys.modules.pop(NAME, None)


@pytest.fixture(scope="module")
def folder(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module, a recipe that names its function, and the run of that recipe."""
    folder = tmp_path_factory.mktemp("own")
    (folder / f"{NAME}.py").write_text(SOURCE)
    (folder / "own.yaml").write_text(SMALL_RECIPE.format(data=small_data, output_dir=folder / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        pretrain(load_recipe(folder / "own.yaml", [*SHORT, f"model.backbone={OWN}", "model.args.width=6"]))
    return folder


def mapped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())


def test_a_run_of_a_function(small_recipe: Path) -> None:
    recipe = load_recipe(small_recipe, [*SHORT, "eval.every_epochs=1"])
    summary = pretrain(recipe, backbone=mapped)
    run_dir = small_recipe.parent / "run"
    name = f"{__name__}:mapped"
    assert load_recipe(run_dir / "recipe.yaml").model.backbone == name
    assert json.loads((run_dir / "export" / "model.json").read_text())["model"]["backbone"] == name
    weights = read_safetensors(run_dir / "export" / "backbone.safetensors")
    assert weights.keys() == mapped().state_dict().keys()
    assert set(summary.knn_top1 or {}) == {"raw", "untrained", "calibrated", "pretrained"}
    fresh = build_model(recipe, backbone=mapped).backbone.state_dict()
    assert not torch.equal(weights["0.weight"], fresh["0.weight"]), "the network was trained"
    assert load_backbone(run_dir / "export", mapped).module(IMAGES).shape == (2, 8)
    assert bt_plugin.evaluate(run_dir, backbone=mapped)["images"] == 12
    assert bt_plugin.export(run_dir, "torch-export", backbone=mapped).path.name == "mapped.pt2"
    with pytest.raises(RecipeError, match=r"model\.backbone was"):
        pretrain(recipe, backbone=lambda: mapped())


def test_the_files_say_what_built_the_network(folder: Path) -> None:
    model = json.loads((folder / "run" / "export" / "model.json").read_text())["model"]
    digest = hashlib.sha256((folder / f"{NAME}.py").read_bytes()).hexdigest()
    assert (model["backbone"], model["args"], model["backbone_sha256"]) == (OWN, {"width": 6}, digest)
    assert load_recipe(folder / "run" / "recipe.yaml").model.backbone_sha256 == digest


def test_a_file_alone_imports_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder / "run"
    assert read_model_file(run / "export").model.backbone == OWN, "it is read where the module is not found"
    monkeypatch.syspath_prepend(folder)
    for read in (
        lambda: load_backbone(run / "export"),
        lambda: read_weights(run),
        lambda: open_model(str(run)),
        lambda: open_model(str(run / "checkpoint-2")),
        lambda: convert(run, "onnx", folder / "none.onnx"),
    ):
        with pytest.raises(WeightsError, match=f"the backbone {OWN} is a function.*--backbone {OWN}, or backbone="):
            read()
    assert NAME not in sys.modules


def test_it_is_read_if_the_user_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    run = folder / "run"
    own = import_module(NAME).flat(6)
    own.load_state_dict(read_safetensors(run / "export" / "backbone.safetensors"))
    expected = own.eval()(IMAGES)
    for module in (
        load_backbone(run / "export", OWN).module,
        load_backbone(run / "export", import_module(NAME).flat).module,
        open_model(str(run), backbone=OWN).backbone,
        open_model(str(run / "checkpoint-2"), backbone=OWN).backbone,
    ):
        torch.testing.assert_close(module.eval()(IMAGES), expected)
    assert read_weights(run, OWN).feature_dim == 6
    with pytest.raises(WeightsError, match=rf"the backbone is {OWN}, not timm/resnet18; name its function"):
        load_backbone(run / "export", "timm/resnet18")


def test_a_file_of_its_weights_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nn.Sequential has keys that a cut ResNet has too."""
    monkeypatch.syspath_prepend(folder)
    own = import_module(NAME).flat()
    torch.save(own.state_dict(), folder / "own.pth")
    backbone = open_model(str(folder / "own.pth"), backbone=OWN).backbone
    torch.testing.assert_close(backbone.eval()(IMAGES), own.eval()(IMAGES))


def test_another_source_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A run does not resume with it, and an evaluation warns."""
    monkeypatch.syspath_prepend(folder)
    file = folder / f"{NAME}.py"
    recipe = load_recipe(folder / "own.yaml", [*SHORT, f"model.backbone={OWN}", "model.args.width=6"])
    assert pretrain(recipe).step == 2
    file.write_text(f"{SOURCE}\n# changed\n")
    try:
        says = rf"model\.backbone: {file} has changed since the run in {folder}/run began\. Restore it"
        with pytest.raises(RecipeError, match=says):
            pretrain(recipe)
        assert any(str(file) in finding.what for finding in examine_recipe(recipe))
        with caplog.at_level(logging.WARNING):
            load_backbone(folder / "run" / "export", OWN)
        assert f"{file} has changed since" in caplog.text
    finally:
        file.write_text(SOURCE)


def test_the_commands(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """They find the module in the current directory, as the console script does not."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    assert main(["knn", "run"]) == 2
    assert f"--backbone {OWN}" in capsys.readouterr().err
    assert main(["knn", "run", "--backbone", OWN]) == 0
    assert main(["export", "run", "--to", "onnx", "--backbone", OWN]) == 0
    assert (folder / "run" / "export" / "flat.onnx").is_file()
    assert main(["report", "run", "--backbone", OWN]) == 0
    assert "There is no map" not in (folder / "run" / "report.html").read_text()
    assert main(["export", "run", "--to", "timm", "--backbone", OWN]) == 2
    assert "timm has no model with the layers of own_nets:flat" in capsys.readouterr().err
    assert main(["check", "own.yaml", f"model.backbone={NAME}:flatt"]) == 2
    assert f"did you mean {NAME}:flat" in capsys.readouterr().err


def test_a_vit_with_arguments_at_another_size(small_recipe: Path) -> None:
    changes = ["views.both.size_px=48", "model.backbone=timm/vit_tiny_patch16_224"]
    args = {"depth": 1, "embed_dim": 24, "num_heads": 3, "drop_path_rate": 0.1}
    pretrain(load_recipe(small_recipe, [*SHORT, *changes, f"model.args={json.dumps(args)}"]))
    run = small_recipe.parent / "run"
    backbone = load_backbone(run / "export")
    assert backbone.module.pos_embed.shape == (1, 197, 24), "the grid of timm"
    path, _ = convert(run, "onnx")
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[2].dim_value == 48
    path, usage = convert(run, "timm")
    assert "num_classes=0, dynamic_img_size=True, depth=1, embed_dim=24" in usage
    images = torch.randn(2, 3, 64, 64)
    theirs = eval(usage, {"timm": timm}).eval()
    torch.testing.assert_close(theirs(images), backbone.module.eval()(images))
    path, usage = convert(run, "hf")
    theirs = eval(usage.splitlines()[0], {"timm": timm}).eval()
    torch.testing.assert_close(theirs(images), backbone.module.eval()(images))
    assert read_weights(run).feature_dim == 24
