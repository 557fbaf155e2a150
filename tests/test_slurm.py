"""The Slurm script, with stand-ins for srun and scontrol that start its launchers here."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bt_plugin.runtime.stop_request import EXIT_PREEMPTED
from tests.conftest import REPOSITORY
from tests.test_launch import metrics, steps_done
from tests.test_survival import wait_for

SCRIPT = REPOSITORY / "recipes" / "slurm" / "pretrain.sbatch"

SRUN = """#!/bin/bash
# Once a node, and the highest exit code.
while [[ $1 == --* ]]; do shift; done
for ((node = 0; node < SLURM_NNODES; node++)); do SLURM_NODEID=$node "$@" & pids+=($!); done
code=0
for pid in "${pids[@]}"; do wait "$pid"; this=$?; ((this > code)) && code=$this; done
exit "$code"
"""
SCONTROL = """#!/bin/bash
case $1 in
  show) echo 127.0.0.1; echo other-host ;;
  requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    return {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_JOB_ID": "4321",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "first-host,other-host",
        "SLURM_GPUS_ON_NODE": "1",
    }


def submit(environment: dict[str, str], recipe: Path, *options: str) -> subprocess.Popen[str]:
    command = ["bash", SCRIPT, recipe, "eval.knn=false", "optim.epochs=30", *options]
    return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def launchers_of(job: subprocess.Popen[str]) -> list[psutil.Process]:
    """What Slurm signals: the tasks of the job's step."""
    return [
        each
        for each in psutil.Process(job.pid).children(recursive=True)
        if [Path(word).name for word in each.cmdline()[1:3]] == ["bt-plugin", "launch"]
    ]


@pytest.mark.distributed
def test_a_job_is_requeued_until_it_is_done(environment: dict[str, str], small_recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    job = submit(environment, small_recipe)
    wait_for(lambda: steps_done(run_dir) >= 5)
    launchers = launchers_of(job)
    assert len(launchers) == 2
    for launcher in launchers:
        launcher.send_signal(signal.SIGUSR1)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == EXIT_PREEMPTED, errors
    assert (tmp_path / "requeued").read_text() == "4321\n"
    done = steps_done(run_dir)
    again = submit(environment, small_recipe, f"run.max_steps={done + 2}")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert [line["step"] for line in metrics(run_dir)] == list(range(1, done + 3))
    assert (tmp_path / "requeued").read_text() == "4321\n", "once"


@pytest.mark.distributed
def test_a_job_that_fails_is_not_requeued(environment: dict[str, str], small_recipe: Path, tmp_path: Path) -> None:
    job = submit(environment, small_recipe, "optim.lr_weights=fast")
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 2
    assert "optim.lr_weights: 'fast' is not allowed" in errors
    assert not (tmp_path / "requeued").exists()


def test_shellcheck_has_nothing_to_say() -> None:
    result = subprocess.run([Path(sys.executable).parent / "shellcheck", SCRIPT], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
