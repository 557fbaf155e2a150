"""Runs that start from existing weights: a new run, not a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.formats.card import model_card
from bt_plugin.formats.exported import Exported
from bt_plugin.report.write import write_report
from bt_plugin.training.pretrain import pretrain
from bt_plugin.weights.model_file import read_model_file
from tests.forks import pretrain_on


def train(recipe: Path, *overrides: str) -> dict[str, Any]:
    AcceleratorState._reset_state()
    PartialState._reset_state()
    return pretrain(load_recipe(recipe, list(overrides))).to_dict()


def backbone(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "export" / "backbone.safetensors")


def test_a_run_starts_from_another_run(small_recipe: Path, trained_run: Path, tmp_path: Path) -> None:
    """Its first backbone, its recipe, its summary, its card and its report know the source."""
    run_dir = tmp_path / "run"
    options = [f"model.init={trained_run}", "run.seed=5", "optim.epochs=2", "eval.every_epochs=1"]
    summary = train(small_recipe, *options, "run.max_steps=4")
    initial = load_file(run_dir / "initial.safetensors")
    assert all(torch.equal(initial[key], value) for key, value in backbone(trained_run).items())
    assert not torch.equal(backbone(run_dir)["conv1.0.weight"], initial["conv1.0.weight"]), "it has trained"
    assert set(summary["knn_top1"]) == {"raw", "untrained", "calibrated", "initialized", "pretrained"}
    theirs = json.loads((trained_run / "summary.json").read_text())["knn_top1"]
    assert summary["knn_top1"]["initialized"] == theirs["pretrained"]
    assert set(summary["view_retrieval_top1"]) == set(summary["knn_top1"])
    assert set(summary["lidar"]) == {"untrained", "calibrated", "pretrained"}, "the others have no projector"
    kept = load_recipe(run_dir / "recipe.yaml").model
    assert kept.init == str(trained_run)
    assert kept.init_sha256 is not None
    described = json.loads((run_dir / "export" / "model.json").read_text())["model"]
    assert (described["init"], described["init_sha256"]) == (kept.init, kept.init_sha256)
    assert kept.init_sha256 in model_card(Exported(run_dir / "export", read_model_file(run_dir / "export")))
    write_report([run_dir], tmp_path / "page.html", map_images=0)
    assert "initialized" in (tmp_path / "page.html").read_text()


def test_a_resume_does_not_read_the_source(small_recipe: Path, trained_run: Path, tmp_path: Path) -> None:
    """The stopped run is the straight one, bit for bit, although its source is gone."""
    source = tmp_path / "source.safetensors"
    source.write_bytes((trained_run / "export" / "backbone.safetensors").read_bytes())
    options = [f"model.init={source}", "optim.epochs=2", "run.checkpoint_every_steps=3"]
    train(small_recipe, *options, f"run.output_dir={tmp_path}/whole")
    train(small_recipe, *options, "run.max_steps=3")
    source.unlink()
    train(small_recipe, *options)
    ours, theirs = backbone(tmp_path / "run"), backbone(tmp_path / "whole")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["knn_top1"]["initialized"]


def test_changed_weights_begin_no_run_twice(small_recipe: Path, trained_run: Path, tmp_path: Path) -> None:
    """A run that ended before its first checkpoint reads the source again, which must be the same."""
    source = tmp_path / "source.pth"
    state = backbone(trained_run)
    torch.save(state, source)
    train(small_recipe, f"model.init={source}", "run.max_steps=1")
    for path in (tmp_path / "run").glob("checkpoint-*/*"):
        path.unlink()
    state["conv1.0.weight"] = state["conv1.0.weight"] + 1
    torch.save(state, source)
    with pytest.raises(RecipeError, match=r"model.init_sha256: .* is not the hash of the weights"):
        train(small_recipe, f"model.init={source}", "run.max_steps=1")


@pytest.mark.distributed
def test_two_ranks_start_alike(small_recipe: Path, trained_run: Path, tmp_path: Path) -> None:
    options = [f"model.init={trained_run}", "eval.knn=false", "run.max_steps=1", "optim.lr_weights=0.0"]
    result = pretrain_on(2, str(small_recipe), *options, "optim.lr_biases=0.0")
    assert result.returncode == 0, result.stderr
    ours, theirs = backbone(tmp_path / "run"), backbone(trained_run)
    weights = [key for key in theirs if "running" not in key and "tracked" not in key]
    assert all(torch.equal(ours[key], theirs[key]) for key in weights)
