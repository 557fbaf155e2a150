"""The examples run as they stand, where a new user would run them: next to data/demo."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

EXAMPLES = sorted(path.name for path in (REPOSITORY / "examples").glob("*.py"))
# How much of the first step's loss may be left at the tenth: where nothing is learned, 0.96 to 0.99, and 0.99 to 1.
PRINTING = {("plain_pytorch.py",): 0.9, ("other_objectives.py", "simclr"): 0.98}


@pytest.fixture
def place(demo_data: Path, tmp_path: Path) -> Path:
    """A folder with 130 of the demo's pictures: one step of 128 an epoch."""
    for label in sorted((demo_data / "train").iterdir()):
        folder = tmp_path / "data" / "demo" / "train" / label.name
        folder.mkdir(parents=True)
        for file in sorted(label.iterdir())[:10]:
            (folder / file.name).symlink_to(file)
    return tmp_path


def run(place: Path, *example: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "LIGHTLY_TRAIN_EVENTS_DISABLED": "1"}
    command = [sys.executable, str(REPOSITORY / "examples" / example[0]), *example[1:]]
    result = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def test_all_examples_are_run_here() -> None:
    ran = {name for name, *_ in PRINTING} | {"with_lightning.py", "with_lightning_ddp.py", "with_lightly_train.py"}
    assert set(EXAMPLES) == ran


@pytest.mark.parametrize(("example", "left"), PRINTING.items(), ids=map(" ".join, PRINTING))
def test_plain_pytorch(place: Path, example: tuple[str, ...], left: float) -> None:
    losses = [float(loss) for loss in re.findall(r"epoch \d, loss (\S+)", run(place, *example))]
    assert len(losses) == 10
    assert losses[-1] < left * losses[0]


def test_lightning(place: Path) -> None:
    assert "`Trainer.fit` stopped: `max_epochs=10` reached" in run(place, "with_lightning.py")


@pytest.mark.distributed
def test_lightning_on_two_ranks(place: Path) -> None:
    output = run(place, "with_lightning_ddp.py")
    assert "MEMBER: 2/2" in output
    assert "`Trainer.fit` stopped: `max_epochs=10` reached" in output


@pytest.mark.skipif(importlib.util.find_spec("lightly_train") is None, reason="lightly-train is not installed")
def test_lightly_train(place: Path) -> None:
    run(place, "with_lightly_train.py")
    assert (place / "runs" / "lightlytrain" / "exported_models" / "exported_last.pt").exists()
