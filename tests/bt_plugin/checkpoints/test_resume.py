"""Resuming with another number of ranks: always at an epoch boundary, in mid-epoch as the recipe says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from bt_plugin.checkpoints.resume import find_checkpoint
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.runs.directory import claim_run_dir
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
    found = find_checkpoint(recipe, world_size, steps_per_epoch=STEPS_PER_EPOCH)
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
    found = find_checkpoint(load_recipe(small_recipe), 2, steps_per_epoch=STEPS_PER_EPOCH)
    assert found is not None
    assert found.name == "checkpoint-4"
    assert (tmp_path / "run" / "superseded-checkpoint-6").is_dir()


WSD = ["optim.schedule=wsd", "optim.decay_share=0.25"]  # 12 steps decay after step 9, 20 steps after step 15


def extended(small_recipe: Path, epochs: int, *overrides: str, steps: tuple[int, ...]) -> Path | None:
    """The checkpoint from which a run of three epochs, with checkpoints at these steps, is extended."""
    before, after = (load_recipe(small_recipe, [*WSD, f"optim.epochs={n}", *overrides]) for n in (3, epochs))
    run_dir = Path(before.run.output_dir)
    claim_run_dir(before).release()
    state = state_of(nn.Linear(2, 2))
    for step in steps:
        loader = {"epoch": step // STEPS_PER_EPOCH, "step": step % STEPS_PER_EPOCH}
        write(state, run_dir, metadata_of(step, world_size=2, loader=loader), keep=9)
    claim_run_dir(after).release()
    found = find_checkpoint(after, 2, steps_per_epoch=STEPS_PER_EPOCH)
    return found and found.relative_to(run_dir)


def recorded(tmp_path: Path) -> int:
    return load_recipe(tmp_path / "run" / "recipe.yaml").optim.epochs


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"),
    [(5, (4, 9, 10, 12), "checkpoint-9"), (5, (4, 8), "checkpoint-8"), (2, (4, 8, 9), "checkpoint-4")],
)
def test_other_epochs_resume_before_any_decay(
    small_recipe: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    epochs: int,
    steps: tuple[int, ...],
    expected: str,
) -> None:
    assert extended(small_recipe, epochs, steps=steps) == Path(expected)
    assert recorded(tmp_path) == epochs
    assert f"optim.epochs was 3 and is now {epochs}" in caplog.text
    newer = [step for step in steps if step > int(expected.partition("-")[2])]
    assert all((tmp_path / "run" / f"superseded-checkpoint-{step}").is_dir() for step in newer)
    # The next start has the same epochs, so that any checkpoint will do.
    again = load_recipe(small_recipe, [*WSD, f"optim.epochs={epochs}"])
    assert find_checkpoint(again, 2, steps_per_epoch=STEPS_PER_EPOCH) == tmp_path / "run" / expected


def test_a_run_without_a_checkpoint_begins_with_other_epochs(small_recipe: Path, tmp_path: Path) -> None:
    assert extended(small_recipe, 5, steps=()) is None
    assert recorded(tmp_path) == 5


def test_other_epochs_are_refused_after_the_decay_began(small_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"^optim\.epochs: was 3 and is now 5.* up to 9, before .* Set optim\.epochs to 3"
    ):
        extended(small_recipe, 5, steps=(10, 12))
    assert recorded(tmp_path) == 3
    assert (tmp_path / "run" / "checkpoint-12").is_dir(), "nothing is changed"
    last = f"run.resume={tmp_path}/run/checkpoint-12"
    with pytest.raises(RecipeError, match=r"run\.resume: .*checkpoint-12 is not a complete checkpoint .* up to step 9"):
        find_checkpoint(load_recipe(small_recipe, [*WSD, "optim.epochs=5", last]), 2, steps_per_epoch=STEPS_PER_EPOCH)
