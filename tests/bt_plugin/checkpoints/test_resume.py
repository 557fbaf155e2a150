"""Resuming with another number of ranks: always at an epoch boundary, in mid-epoch as the recipe says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from bt_plugin.checkpoints.resume import find_checkpoint
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from tests.saved import metadata_of, state_of, write

STEPS_PER_EPOCH = 4


def at(small_recipe: Path, *overrides: str, steps: tuple[int, ...], world_size: int = 2) -> Path | None:
    """The checkpoint from which a run of two ranks with checkpoints at these steps resumes."""
    recipe = load_recipe(small_recipe, list(overrides))
    run_dir = Path(recipe.run.output_dir)
    run_dir.mkdir()
    state = state_of(nn.Linear(2, 2))
    for step in steps:
        loader = {"epoch": step // STEPS_PER_EPOCH, "step": step % STEPS_PER_EPOCH}
        write(state, run_dir, metadata_of(step, world_size=2, loader=loader), keep=9)
    found = find_checkpoint(recipe, world_size)
    return found and found.relative_to(run_dir)


def test_the_same_world_goes_on_from_the_newest(small_recipe: Path, tmp_path: Path) -> None:
    assert at(small_recipe, steps=(3, 6)) == Path("checkpoint-6")


def test_an_epochs_edge_needs_no_leave(small_recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert at(small_recipe, steps=(4, 8), world_size=3) == Path("checkpoint-8")
    assert "checkpoint-8 was written by 2 ranks, and this run has 3: global batches are unchanged" in caplog.text


def test_the_middle_of_an_epoch_is_refused(small_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"run\.on_world_change: checkpoint-6 was written by 2 ranks.*middle of epoch 1"
    ):
        at(small_recipe, steps=(4, 6), world_size=1)
    assert (tmp_path / "run" / "checkpoint-6").is_dir(), "nothing is changed"


def test_back_to_the_edge(small_recipe: Path, tmp_path: Path) -> None:
    assert at(small_recipe, "run.on_world_change=epoch", steps=(4, 6, 7), world_size=1) == Path("checkpoint-4")
    assert {path.name for path in (tmp_path / "run").glob("*checkpoint-*")} == {
        "checkpoint-4",
        "superseded-checkpoint-6",
        "superseded-checkpoint-7",
    }


def test_an_edge_that_is_damaged_or_not_kept_is_none(small_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no checkpoint of .* is at an epoch boundary"):
        at(small_recipe, "run.on_world_change=epoch", steps=(5, 6), world_size=1)


def test_on_from_the_middle(small_recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert at(small_recipe, "run.on_world_change=continue", steps=(4, 6), world_size=4) == Path("checkpoint-6")
    assert "Random states are new" in caplog.text


def test_a_damaged_newest_one_is_kept_aside(small_recipe: Path, tmp_path: Path) -> None:
    at(small_recipe, steps=(4, 6))
    manifest = tmp_path / "run" / "checkpoint-6" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"files": {"__0_0.distcp": [1, "x"]}}))
    found = find_checkpoint(load_recipe(small_recipe), 2)
    assert found is not None
    assert found.name == "checkpoint-4"
    assert (tmp_path / "run" / "superseded-checkpoint-6").is_dir()
