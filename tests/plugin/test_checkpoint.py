"""Checkpoints are complete or not there, damage is seen, and the newest ones stay."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from bt_plugin.checkpoint import (
    Progress,
    checkpoints,
    damage_of,
    load_checkpoint,
    resume_from,
    save_checkpoint,
    set_aside_after,
)
from bt_plugin.errors import CheckpointError, RecipeError

LOADER = {"epoch": 1, "step": 2}


@pytest.fixture
def accelerator() -> Accelerator:
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(300, 200)
    accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return accelerator


def save(accelerator: Accelerator, run_dir: Path, step: int, keep: int = 3) -> Path:
    save_checkpoint(accelerator, run_dir, Progress(step, LOADER, nonfinite_steps=7, world_size=1), keep)
    return run_dir / f"checkpoint-{step}"


def names(run_dir: Path) -> list[str]:
    return [path.name for path in checkpoints(run_dir)]


@contextmanager
def full_disk(after_bytes: int) -> Iterator[None]:
    """The system refuses to make a file larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_state_comes_back(accelerator: Accelerator, tmp_path: Path) -> None:
    (model,) = accelerator._models
    before = model.weight.detach().clone()
    saved = save(accelerator, tmp_path, 5)
    expected = torch.rand(3)
    nn.init.zeros_(model.weight)
    assert load_checkpoint(accelerator, saved) == Progress(5, LOADER, 7, 1)
    assert torch.equal(model.weight, before)
    assert torch.equal(torch.rand(3), expected), "the random state too"


def test_random_states_that_cannot_be_restored_are_an_error(accelerator: Accelerator, tmp_path: Path) -> None:
    """Accelerate would go on with others, and the run would be another."""
    saved = save(accelerator, tmp_path, 5)
    states = torch.load(saved / "random_states_0.pkl", weights_only=False)
    torch.save(states | {"random_state": "nonsense"}, saved / "random_states_0.pkl")
    torch.rand(1)
    with pytest.raises(CheckpointError, match="random states cannot be restored"):
        load_checkpoint(accelerator, saved)


def test_the_newest_stay_by_number_and_not_by_name(accelerator: Accelerator, tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        save(accelerator, tmp_path, step)
    assert names(tmp_path) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert resume_from(tmp_path, "latest") == tmp_path / "checkpoint-100"


@pytest.mark.parametrize("room_bytes", [0, 1000, 200_000])
def test_a_full_disk_leaves_the_earlier_one(accelerator: Accelerator, tmp_path: Path, room_bytes: int) -> None:
    """The weights have 240,800 bytes."""
    save(accelerator, tmp_path, 1, keep=1)
    with full_disk(room_bytes), pytest.raises(CheckpointError, match=r"checkpoint-2 cannot be written: .*"):
        save(accelerator, tmp_path, 2, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert damage_of(tmp_path / "checkpoint-1") is None
    with full_disk(room_bytes), pytest.raises(CheckpointError, match="checkpoint-1 stands; make room, and start"):
        save(accelerator, tmp_path, 2, keep=1)
    assert save(accelerator, tmp_path, 3, keep=1).exists()


def test_what_a_killed_writer_left_is_removed(accelerator: Accelerator, tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-2.partial").mkdir()
    (tmp_path / "checkpoint-3").mkdir()
    save(accelerator, tmp_path, 3)
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
    [(Path.unlink, "is gone"), (cut, r"has \d+ of \d+ bytes"), (flip_a_bit, "has other bytes than were written")],
)
def test_a_damaged_one_is_passed_over(
    accelerator: Accelerator, tmp_path: Path, damage: object, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        save(accelerator, tmp_path, step)
    damage(tmp_path / "checkpoint-2" / "model.safetensors")  # type: ignore[operator]
    assert resume_from(tmp_path, "latest") == tmp_path / "checkpoint-1"
    (message,) = caplog.messages
    assert "checkpoint-2 is damaged, model.safetensors" in message
    with pytest.raises(RecipeError, match=rf"checkpoint-2 is damaged, model.safetensors {named}; take another"):
        resume_from(tmp_path, str(tmp_path / "checkpoint-2"))


def test_a_damaged_manifest_is_damage(accelerator: Accelerator, tmp_path: Path) -> None:
    saved = save(accelerator, tmp_path, 1)
    manifest = saved / "manifest.json"
    whole = manifest.read_text()
    for text in ("", "{}", whole[:-9], json.dumps(json.loads(whole) | {"files": 3})):
        manifest.write_text(text)
        assert "cannot be read" in (damage_of(saved) or "")
    with pytest.raises(RecipeError, match=r"every checkpoint of .* is damaged"):
        resume_from(tmp_path, "latest")


def test_what_to_resume_from(accelerator: Accelerator, tmp_path: Path) -> None:
    assert resume_from(tmp_path, "latest") is None
    saved = save(accelerator, tmp_path, 4)
    assert resume_from(tmp_path, "never") is None
    assert resume_from(tmp_path, str(saved)) == saved
    with pytest.raises(RecipeError, match="there are: checkpoint-4"):
        resume_from(tmp_path, "checkpoint-7")


def test_newer_ones_are_set_aside(accelerator: Accelerator, tmp_path: Path) -> None:
    """Else a run that went back, and died, would go on from the future that it left."""
    for step in (1, 2, 10):
        save(accelerator, tmp_path, step)
    assert [path.name for path in set_aside_after(tmp_path, tmp_path / "checkpoint-1")] == [
        "checkpoint-2",
        "checkpoint-10",
    ]
    assert names(tmp_path) == ["checkpoint-1"]
    assert damage_of(tmp_path / "superseded-checkpoint-10") is None, "nothing is lost"
