"""Whole runs with networks of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.models.from_recipe import build_model
from bt_plugin.training.pretrain import pretrain
from bt_plugin.weights.checkpoint_file import read_safetensors

SHORT = ["run.max_steps=2", "eval.every_epochs=1", "optim.global_batch_size=18", "optim.warmup_epochs=0"]


def mapped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())


def test_a_run_of_a_function(small_recipe: Path) -> None:
    recipe = load_recipe(small_recipe, SHORT)
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
    assert pretrain(recipe, backbone=mapped).step == 2
    with pytest.raises(RecipeError, match=r"model\.backbone was"):
        pretrain(recipe, backbone=lambda: mapped())
