"""A run that goes on is one run to its trackers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, PartialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bt_plugin import trackers
from bt_plugin.errors import RecipeError
from bt_plugin.recipe_file import load_recipe
from bt_plugin.train import pretrain


def train(recipe: Path, *overrides: str) -> None:
    AcceleratorState._reset_state()
    PartialState._reset_state()
    pretrain(load_recipe(recipe, ["eval.knn=false", *overrides]))


def test_one_run_in_all_its_lives(small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    both = 'run.trackers=["tensorboard", "wandb"]'
    train(small_recipe, both, "run.max_steps=3", "run.checkpoint_every_steps=2")
    run_dir = tmp_path / "run"
    # As after a kill: step 3 was told, and is in no checkpoint.
    shutil.rmtree(run_dir / "checkpoint-3")
    train(small_recipe, both, "run.max_steps=5")
    manifest = json.loads((run_dir / "checkpoint-5" / "manifest.json").read_text())
    run_id = manifest["progress"][4]
    lives = sorted((run_dir / "wandb").glob("offline-run-*"))
    assert len(lives) == 2
    assert {path.name.rpartition("-")[2] for path in lives} == {run_id}
    (events,) = {path.parent for path in (run_dir / "tensorboard").rglob("events.*")}
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    assert [scalar.step for scalar in accumulator.Scalars("loss")] == [1, 2, 3, 4, 5]


def test_one_that_is_not_installed_is_refused(small_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"run\.trackers: wandb is not installed; pip install wandb"):
        train(small_recipe, "run.trackers=[wandb]")
