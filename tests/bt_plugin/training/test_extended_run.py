"""A finished run that is extended is the run that had the more epochs from the start, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from tests.bt_plugin.training.test_pretrain import learning, train

# 12 steps decay after step 9, in mid-epoch; 16 steps after step 12.
OPTIONS = [
    *("optim.name=adamw", "optim.lr=0.01", "optim.lr_biases=0.0003", "optim.schedule=wsd", "optim.decay_share=0.25"),
    *("optim.clip_grad_norm=5.0", "run.keep_checkpoints=1", "eval.every_epochs=1", "eval.online_images=8"),
    *("eval.knn=false", "run.trackers=[]"),
]


def test_an_extended_run_is_the_longer_run(small_recipe: Path, tmp_path: Path) -> None:
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    summary = train(small_recipe, *OPTIONS)
    assert summary["step"] == 12
    assert sorted(path.name for path in run_dir.glob("*checkpoint-*")) == ["checkpoint-12", "checkpoint-9"]
    first = learning(run_dir)
    assert {line["lr_base"] for line in first[4:9]} == {0.01 * 8 / 256}
    assert first[11]["lr_base"] < 0.2 * 0.01 * 8 / 256

    with pytest.raises(RecipeError, match=r"optim\.weight_decay was 0\.05 and is now 0\.1"):
        train(small_recipe, *OPTIONS, "optim.epochs=4", "optim.weight_decay=0.1")
    assert train(small_recipe, *OPTIONS, "optim.epochs=4")["step"] == 16
    train(small_recipe, *OPTIONS, "optim.epochs=4", f"run.output_dir={whole}")
    assert learning(run_dir) == learning(whole)
    assert learning(run_dir)[:9] == first[:9]
    assert (run_dir / "evaluations.jsonl").read_text() == (whole / "evaluations.jsonl").read_text()
    ours, theirs = (load_file(folder / "export" / "backbone.safetensors") for folder in (run_dir, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    names = ["checkpoint-12", "checkpoint-16", "superseded-checkpoint-12"]
    assert sorted(path.name for path in run_dir.glob("*checkpoint-*")) == names
    assert load_recipe(run_dir / "recipe.yaml").optim.epochs == 4
