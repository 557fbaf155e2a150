"""Whose a directory is: a run never writes into what is not its own."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest

from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError, UserError
from bt_plugin.runs.directory import RunLock, check_run_dir, check_shared, claim_run_dir
from tests.ranks import run_ranks


@pytest.fixture
def recipe(small_recipe: Path) -> Recipe:
    return load_recipe(small_recipe)


def changed(small_recipe: Path, *overrides: str) -> Recipe:
    return load_recipe(small_recipe, list(overrides))


def test_a_fresh_directory_is_claimed_and_continued(recipe: Recipe) -> None:
    check_run_dir(recipe)
    lock = claim_run_dir(recipe)
    written = load_recipe(Path(recipe.run.output_dir) / "recipe.yaml")
    assert written.resolved_dict() == recipe.resolved_dict()
    check_run_dir(recipe)
    with pytest.raises(RecipeError, match=rf"is being written by process {os.getpid()} on .*, since 20"):
        claim_run_dir(recipe)
    lock.release()
    claim_run_dir(recipe).release()


def test_a_run_that_died_before_its_recipe_was_written_can_be_started(recipe: Recipe) -> None:
    folder = Path(recipe.run.output_dir)
    folder.mkdir(parents=True)
    RunLock(folder).release()
    check_run_dir(recipe)


def test_without_locks_a_run_starts_with_a_warning(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on file systems that have none."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    claim_run_dir(recipe).release()
    assert "this file system has no locks" in caplog.text


def test_what_does_not_change_the_learning_may_change(small_recipe: Path, recipe: Recipe) -> None:
    claim_run_dir(recipe)
    check_run_dir(changed(small_recipe, "run.log_every_steps=7", "run.max_steps=3", "data.prefetch=4", "eval.knn_k=3"))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optim.lr_weights=0.5", "optim.lr_weights was 0.2 and is now 0.5"),
        ("optim.epochs=5", "optim.epochs was 3 and is now 5"),  # a cosine cannot be extended
        ("optim.schedule=wsd", "optim.schedule was 'cosine' and is now 'wsd'"),
        ("views.both.size_px=64", "views.a was"),
        ("model.projector=[8]", "model.projector was"),
        ("run.seed=4", "run.seed was 0 and is now 4"),
        ("run.resume=never", "already contains a run"),
    ],
)
def test_another_run_is_refused(small_recipe: Path, recipe: Recipe, override: str, named: str) -> None:
    claim_run_dir(recipe)
    with pytest.raises(RecipeError) as error:
        check_run_dir(changed(small_recipe, override))
    assert named in str(error.value)
    assert str(recipe.run.output_dir) in str(error.value)


def test_other_files_are_refused_and_untouched(recipe: Recipe) -> None:
    folder = Path(recipe.run.output_dir)
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(RecipeError, match="do not belong to a run"):
        check_run_dir(recipe)
    assert [file.name for file in folder.iterdir()] == ["thesis.tex"]


def test_a_file_is_refused(recipe: Recipe) -> None:
    Path(recipe.run.output_dir).write_text("")
    with pytest.raises(RecipeError, match="is a file"):
        check_run_dir(recipe)


def seen_by_each(rank: int, recipe: str, folder: str) -> str:
    """Rank 1 is on a machine with a disk of its own, where it looks is another place."""
    loaded = load_recipe(Path(recipe), [f"run.output_dir={folder}/{rank}"])
    if rank == 0:
        claim_run_dir(loaded).release()
    try:
        check_shared(loaded, within_s=0.1)
    except RecipeError as error:
        return str(error)
    return ""


@pytest.mark.distributed
def test_a_directory_that_is_not_shared_is_refused_on_every_rank(small_recipe: Path, tmp_path: Path) -> None:
    first, second = run_ranks(2, seen_by_each, str(small_recipe), str(tmp_path))
    assert f"rank 1 does not see what rank 0 wrote to {tmp_path}/0" in first
    assert "rank 1 does not see" in second


def test_a_directory_that_is_shared_is_not_waited_for(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_run_dir(recipe).release()
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"{seconds} s are waited"))
    check_shared(recipe)


def test_a_directory_that_became_another_runs_meanwhile_is_refused(small_recipe: Path) -> None:
    """Both are let through before they list their data; the one that claims later finds the other's recipe."""
    first, second = load_recipe(small_recipe), changed(small_recipe, "optim.lr_weights=0.1")
    check_run_dir(first)
    check_run_dir(second)
    claim_run_dir(first).release()
    with pytest.raises(RecipeError, match=r"contains a run with another recipe: optim\.lr_weights"):
        claim_run_dir(second)
    assert load_recipe(Path(first.run.output_dir) / "recipe.yaml").optim == first.optim
    claim_run_dir(first).release()


@pytest.mark.parametrize("folder", ["small.yaml/run", "/dev/null/run", "run\0", "x" * 300])
def test_a_directory_that_cannot_be_made_is_refused_by_its_key(small_recipe: Path, tmp_path: Path, folder: str) -> None:
    recipe = load_recipe(small_recipe)
    there = recipe.model_copy(update={"run": recipe.run.model_copy(update={"output_dir": str(tmp_path / folder)})})
    with pytest.raises(UserError, match=r"^run\.output_dir: "):
        check_run_dir(there)
