"""Real launches that are asked to stop, meet NaN, change their number of ranks, or share a directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from bt_plugin.runtime.stop_request import EXIT_PREEMPTED
from tests.conftest import REPOSITORY
from tests.forks import pretrain_on, run_forked
from tests.saved import weights_in
from tests.test_launch import ACCELERATE, CPU_2PROC, metrics, steps_done

OURS = [sys.executable, "-m", "bt_plugin", "launch"]
LAUNCHERS = {
    "none": [sys.executable],
    "launch-2": [*OURS, *CPU_2PROC],
    "accelerate-2": [*ACCELERATE, *CPU_2PROC],
}


def learnt(run_dir: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in ("images_per_s", "data_wait")} for line in metrics(run_dir)]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "export" / "backbone.safetensors")


def start(launcher: list[str], recipe: Path, *options: str) -> subprocess.Popen[str]:
    command = [*launcher, "-m", "bt_plugin", "pretrain", str(recipe), "eval.knn=false", *options]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s, "it takes too long"
        time.sleep(0.05)


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train, by rank."""
    trees = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    found = [each for each in trees if "pretrain" in each.cmdline() and "launch" not in " ".join(each.cmdline())]
    return sorted(found, key=lambda each: int(each.environ().get("RANK", "0")))


@pytest.mark.distributed
@pytest.mark.parametrize(("name", "number"), [("none", signal.SIGUSR1), ("launch-2", signal.SIGTERM)])
def test_asked_to_stop_it_stops_and_goes_on(
    small_recipe: Path, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    """The launcher's process alone gets the signal, as a scheduler's job does."""
    run_dir = tmp_path / "run"
    process = start(LAUNCHERS[name], small_recipe, "optim.epochs=20")
    wait_for(lambda: steps_done(run_dir) >= 6)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_PREEMPTED, errors
    done = steps_done(run_dir)
    assert 6 <= done < 80
    assert f"stopped: asked to stop at step {done}. Run the same command again to resume from" in errors
    assert errors.count("asked to stop") == 1, "rank 0 speaks"
    assert (run_dir / f"checkpoint-{done}").is_dir()
    before = metrics(run_dir)
    process = start(LAUNCHERS[name], small_recipe, "optim.epochs=20", f"run.max_steps={done + 2}")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert metrics(run_dir)[:done] == before
    assert steps_done(run_dir) == done + 2


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["launch-2", "accelerate-2"])
def test_one_ranks_signal_stops_all_at_one_step(small_recipe: Path, tmp_path: Path, name: str) -> None:
    """Other launchers than ours end with codes of their own."""
    run_dir = tmp_path / "run"
    process = start(LAUNCHERS[name], small_recipe, "optim.epochs=20")
    wait_for(lambda: steps_done(run_dir) >= 3)
    ranks_of(process)[1].send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (EXIT_PREEMPTED if name == "launch-2" else 1), errors
    done = steps_done(run_dir)
    manifest = json.loads((run_dir / f"checkpoint-{done}" / "manifest.json").read_text())
    assert {"__0_0.distcp", "__1_0.distcp"} <= set(manifest["files"]), "each rank wrote its part"


@pytest.mark.distributed
def test_launch_has_the_ranks_exit_code(small_recipe: Path) -> None:
    for config in (["--config_file", "accelerate/cpu"], CPU_2PROC):
        command = [*OURS, *config, "-m", "bt_plugin", "pretrain", str(small_recipe), "optim.epochs=x"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
        assert result.returncode == 2, result.stderr
        assert "optim.epochs: 'x' is not allowed" in result.stderr


@pytest.mark.distributed
@pytest.mark.parametrize(("world_size", "rank"), [(1, "0"), (2, "1")])
def test_a_step_of_nan_is_skipped_on_all_ranks(small_recipe: Path, tmp_path: Path, world_size: int, rank: str) -> None:
    options = ["optim.warmup_epochs=0", "eval.knn=false"]
    command = ["tests.poisoned", "pretrain", str(small_recipe), *options]
    result = run_forked(world_size, *command, POISON_RANK=rank, POISON_STEPS="5,6")
    assert result.returncode == 0, result.stderr
    lines = metrics(tmp_path / "run")
    assert [line["nonfinite_steps"] for line in lines] == [0] * 4 + [1] + [2] * 7
    assert all(weight.isfinite().all() for weight in weights(tmp_path / "run").values())
    assert all(line["loss"] > 0 for line in lines[6:])


@pytest.mark.distributed
@pytest.mark.parametrize(("world_size", "rank"), [(1, "0"), (2, "1")])
def test_too_many_in_a_row_end_the_run(small_recipe: Path, tmp_path: Path, world_size: int, rank: str) -> None:
    options = ["run.max_nonfinite_steps=2", "run.checkpoint_every_steps=1", "run.keep_checkpoints=9"]
    result = run_forked(
        world_size, "tests.poisoned", "pretrain", str(small_recipe), *options, POISON_RANK=rank, POISON_STEPS="2,4,5,6"
    )
    assert result.returncode != 0
    message = f"step 6: the embeddings of rank {rank} are not finite, for 3 steps in a row; the images are "
    assert result.stderr.count(message) == 1
    assert ".jpg" in result.stderr
    kept = weights_in(tmp_path / "run" / "checkpoint-5")
    assert all(weight.isfinite().all() for weight in kept.values())


@pytest.mark.distributed
def test_another_number_of_ranks(small_recipe: Path, tmp_path: Path) -> None:
    """Refused in the middle of an epoch, back to its edge where it may, on with the same images where it shall."""
    assert pretrain_on(2, str(small_recipe), "run.checkpoint_every_steps=2", "run.max_steps=6").returncode == 0
    refused = pretrain_on(1, str(small_recipe))
    assert refused.returncode != 0
    assert "run.on_world_change: checkpoint-6 was written by 2 ranks, and this run has 1" in refused.stderr
    back = pretrain_on(1, str(small_recipe), "run.on_world_change=epoch", "run.max_steps=7")
    assert back.returncode == 0, back.stderr
    assert "resuming from" in back.stderr
    assert "checkpoint-4" in back.stderr
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 8))
    onward = pretrain_on(2, str(small_recipe), "run.on_world_change=continue", "run.max_steps=9")
    assert onward.returncode == 0, onward.stderr
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 10))


def test_a_second_run_in_the_same_directory_is_refused(small_recipe: Path, tmp_path: Path) -> None:
    """And lets the first one be; once that is dead, the directory is free."""
    run_dir = tmp_path / "run"
    first = start(LAUNCHERS["none"], small_recipe, "optim.epochs=200")
    try:
        wait_for(lambda: steps_done(run_dir) >= 2)
        second = pretrain_on(1, str(small_recipe), "optim.epochs=200")
        assert second.returncode != 0
        assert f"{run_dir} is being written by process {first.pid} on " in second.stderr
        done = steps_done(run_dir)
        wait_for(lambda: steps_done(run_dir) > done)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    third = pretrain_on(
        1, str(small_recipe), "optim.epochs=200", "eval.knn=false", f"run.max_steps={steps_done(run_dir)}"
    )
    assert third.returncode == 0, third.stderr


def test_deterministic_runs_are_bitwise_equal(small_recipe: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        result = pretrain_on(
            1, str(small_recipe), "run.deterministic=true", "eval.knn=false", f"run.output_dir={tmp_path}/{name}"
        )
        assert result.returncode == 0, result.stderr
    assert learnt(tmp_path / "one") == learnt(tmp_path / "other")
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    assert all(torch.equal(one[key], other[key]) for key in one)
