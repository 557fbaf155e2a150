"""Checkpoints are complete or not there, and the newest ones stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from bt_plugin import checkpoint as module
from bt_plugin.checkpoint import checkpoints, load_checkpoint, resume_from, save_checkpoint
from bt_plugin.errors import RecipeError

LOADER = {"epoch": 1, "step": 2}


@pytest.fixture
def accelerator() -> Accelerator:
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(3, 2)
    accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    return accelerator


def names(run_dir: Path) -> list[str]:
    return [path.name for path in checkpoints(run_dir)]


def test_state_comes_back(accelerator: Accelerator, tmp_path: Path) -> None:
    (model,) = accelerator._models
    before = model.weight.detach().clone()
    save_checkpoint(accelerator, tmp_path, 5, LOADER, keep=1)
    expected = torch.rand(3)
    nn.init.zeros_(model.weight)
    assert load_checkpoint(accelerator, tmp_path / "checkpoint-5") == {"step": 5, "loader": LOADER}
    assert torch.equal(model.weight, before)
    assert torch.equal(torch.rand(3), expected), "the random state too"


def test_the_newest_stay_by_number_and_not_by_name(accelerator: Accelerator, tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        save_checkpoint(accelerator, tmp_path, step, LOADER, keep=3)
    assert names(tmp_path) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert resume_from(tmp_path, "latest") == tmp_path / "checkpoint-100"


def test_a_write_that_fails_leaves_the_earlier_one(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(accelerator, tmp_path, 1, LOADER, keep=1)

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", full_disk)
        with pytest.raises(OSError, match="no space"):
            save_checkpoint(accelerator, tmp_path, 2, LOADER, keep=1)
    assert names(tmp_path) == ["checkpoint-1"]
    save_checkpoint(accelerator, tmp_path, 3, LOADER, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"], "what was abandoned is gone"


def test_what_to_resume_from(accelerator: Accelerator, tmp_path: Path) -> None:
    assert resume_from(tmp_path, "latest") is None
    save_checkpoint(accelerator, tmp_path, 4, LOADER, keep=1)
    assert resume_from(tmp_path, "never") is None
    assert resume_from(tmp_path, str(tmp_path / "checkpoint-4")) == tmp_path / "checkpoint-4"
    with pytest.raises(RecipeError, match="there are: checkpoint-4"):
        resume_from(tmp_path, "checkpoint-7")
