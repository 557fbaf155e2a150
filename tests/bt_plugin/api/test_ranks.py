"""Callbacks of a run on two ranks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.test_launch import ACCELERATE, CPU_2PROC

PROGRAM = """
import os
import sys
from pathlib import Path

import bt_plugin
from bt_plugin.errors import CallbackError, LaunchError, PreemptedError

recipe, folder, fails = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "fails"
rank = os.environ["RANK"]


class Notes(bt_plugin.Callback):
    def __init__(self, name):
        self.file = folder / f"{name}-{rank}"

    def note(self, event):
        with open(self.file, "a") as file:
            print(type(event).__name__, event.step, file=file)
        if fails and event.step == 2 and rank == "0":
            raise OSError("full")

    on_log = on_checkpoint = on_end = note


class OnAllRanks(Notes):
    all_ranks = True


changes = {"optim.epochs": 2, "eval.knn": False}
try:
    bt_plugin.pretrain(recipe, changes, callbacks=[Notes("main"), OnAllRanks("all")])
except (CallbackError, PreemptedError) as error:
    (folder / f"error-{rank}").write_text(f"{type(error).__name__}: {error}")
try:
    bt_plugin.pretrain(recipe, changes)
except LaunchError as error:
    (folder / f"second-{rank}").write_text(str(error))
"""


@pytest.mark.distributed
def test_rank_0_calls_callbacks_and_all_ranks_those_that_ask(small_recipe: Path, tmp_path: Path) -> None:
    """Where one fails, both ranks stop with a checkpoint, and the same command resumes.

    The launched processes are for one call.
    """
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [*ACCELERATE, *CPU_2PROC, str(program), str(small_recipe), str(tmp_path)]
    subprocess.run([*command, "fails"], check=True, capture_output=True, cwd=REPOSITORY, timeout=300)
    assert (tmp_path / "error-0").read_text() == "CallbackError: callback Notes.on_log failed at step 2: OSError: full"
    assert (tmp_path / "error-1").read_text().startswith("PreemptedError: asked to stop at step")
    assert list((tmp_path / "run").glob("checkpoint-*")), "it can be resumed"
    subprocess.run([*command, "succeeds"], check=True, capture_output=True, cwd=REPOSITORY, timeout=300)
    for rank in range(2):
        assert "Launch the ranks once for each call" in (tmp_path / f"second-{rank}").read_text()
    assert not (tmp_path / "main-1").exists()
    noted = {name: (tmp_path / name).read_text().splitlines() for name in ("main-0", "all-0", "all-1")}
    for lines in noted.values():
        assert lines[-1] == "Summary 8"
        assert {"Metrics 8", "Checkpoint 4", "Checkpoint 8"} <= set(lines)
