"""Checkpoints are complete or not there, damage is seen, and the newest ones stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from bt_plugin.checkpoints.folder import (
    NewCheckpoint,
    checkpoints,
    damage_of,
    read_metadata,
    resume_from,
    set_aside_after,
)
from bt_plugin.checkpoints.state import TrainingState
from bt_plugin.errors import CheckpointError, RecipeError
from tests.saved import metadata_of, save, state_of


@pytest.fixture
def state() -> TrainingState:
    return state_of(nn.Linear(300, 200))


def names(run_dir: Path) -> list[str]:
    return [path.name for path in checkpoints(run_dir)]


def test_progress_comes_back(state: TrainingState, tmp_path: Path) -> None:
    assert read_metadata(save(state, tmp_path, 5)) == metadata_of(5)


def test_a_part_that_is_elsewhere_is_an_error(state: TrainingState, tmp_path: Path) -> None:
    """Two machines that do not share the directory would each write half a checkpoint."""
    new = NewCheckpoint(tmp_path, 5)
    save(state, tmp_path, 4).rename(new.folder)
    (new.folder / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp cannot be read: No such file .* all machines share"):
        new.complete(metadata_of(5))


def test_the_newest_stay_by_number_and_not_by_name(state: TrainingState, tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        save(state, tmp_path, step)
    assert names(tmp_path) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert resume_from(tmp_path, "latest") == tmp_path / "checkpoint-100"


def test_what_a_killed_writer_left_is_removed(state: TrainingState, tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-2.partial").mkdir()
    (tmp_path / "checkpoint-3").mkdir()
    save(state, tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
    assert damage_of(tmp_path / "checkpoint-3") is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "named"),
    [(Path.unlink, "is missing"), (cut, r"has \d+ of \d+ bytes"), (flip_a_bit, "differs from what was written")],
)
def test_a_damaged_one_is_passed_over(
    state: TrainingState, tmp_path: Path, damage: object, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        save(state, tmp_path, step)
    damage(tmp_path / "checkpoint-2" / "__0_0.distcp")  # type: ignore[operator]
    assert resume_from(tmp_path, "latest") == tmp_path / "checkpoint-1"
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("bt_plugin")]
    assert "checkpoint-2 is damaged: __0_0.distcp" in message
    with pytest.raises(RecipeError, match=rf"checkpoint-2 is damaged: __0_0.distcp {named}. Choose another"):
        resume_from(tmp_path, str(tmp_path / "checkpoint-2"))


def test_a_damaged_manifest_is_damage(state: TrainingState, tmp_path: Path) -> None:
    saved = save(state, tmp_path, 1)
    manifest = saved / "manifest.json"
    whole = manifest.read_text()
    for text in ("", "{}", whole[:-9], json.dumps(json.loads(whole) | {"files": 3})):
        manifest.write_text(text)
        assert "cannot be read" in (damage_of(saved) or "")
    with pytest.raises(RecipeError, match=r"every checkpoint of .* is damaged"):
        resume_from(tmp_path, "latest")


def test_what_to_resume_from(state: TrainingState, tmp_path: Path) -> None:
    assert resume_from(tmp_path, "latest") is None
    saved = save(state, tmp_path, 4)
    assert resume_from(tmp_path, "never") is None
    assert resume_from(tmp_path, str(saved)) == saved
    with pytest.raises(RecipeError, match="Choose one of: checkpoint-4"):
        resume_from(tmp_path, "checkpoint-7")


def test_newer_ones_are_set_aside(state: TrainingState, tmp_path: Path) -> None:
    """Otherwise a run that went back and died would resume from the newer checkpoints that it left."""
    for step in (1, 2, 10):
        save(state, tmp_path, step)
    assert [path.name for path in set_aside_after(tmp_path, tmp_path / "checkpoint-1")] == [
        "checkpoint-2",
        "checkpoint-10",
    ]
    assert names(tmp_path) == ["checkpoint-1"]
    assert damage_of(tmp_path / "superseded-checkpoint-10") is None, "nothing is lost"
