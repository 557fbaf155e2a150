"""Real launches: `accelerate launch` on one rank and on two, what they share, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bt_plugin.errors import LaunchError
from bt_plugin.runtime.collectives import check_launch
from tests.conftest import REPOSITORY
from tests.forks import pretrain_on, run_forked

ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
CPU_2PROC = ["--config_file", str(REPOSITORY / "recipes" / "accelerate" / "cpu_2proc.yaml")]
CPU = ["--config_file", str(REPOSITORY / "recipes" / "accelerate" / "cpu.yaml")]


def launch(
    config: list[str], *arguments: str, module: str = "bt_plugin", **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [*ACCELERATE, *config, "-m", module, "pretrain", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=REPOSITORY, timeout=300)


def metrics(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def steps_done(run_dir: Path) -> int:
    return len(metrics(run_dir)) if (run_dir / "metrics.jsonl").exists() else 0


@pytest.mark.distributed
def test_two_ranks_train_as_one_group(small_recipe: Path, tmp_path: Path) -> None:
    result = launch(CPU_2PROC, str(small_recipe))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("kNN top-1") == 1, "rank 0 alone speaks"
    assert "FutureWarning" not in result.stderr
    run_dir = tmp_path / "run"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["world_size"] == 2
    assert [line["step"] for line in metrics(run_dir)] == list(range(1, 13))
    checkpoint = run_dir / "checkpoint-12"
    assert (checkpoint / "__1_0.distcp").is_file(), "both ranks are in the checkpoint"


@pytest.mark.distributed
def test_rank_0_alone_writes(small_recipe: Path, tmp_path: Path) -> None:
    """But for the other ranks' parts of a checkpoint."""
    result = run_forked(2, "tests.audited", "pretrain", str(small_recipe), AUDIT=str(tmp_path))
    assert result.returncode == 0, result.stderr
    opened = [map(Path, (tmp_path / str(rank)).read_text().splitlines()) for rank in range(2)]
    by_main, by_other = ([path.name for path in paths if path.is_relative_to(tmp_path / "run")] for paths in opened)
    assert set(by_other) == {"__1_0.distcp"}
    for name in ("metrics.jsonl", ".summary.json.partial", ".recipe.yaml.partial"):
        assert name in by_main
    assert any(name.startswith("events.") for name in by_main)


@pytest.mark.distributed
def test_two_ranks_are_the_run_of_one(small_recipe: Path, tmp_path: Path) -> None:
    """Images, views, loss and gradient. A network without BatchNorm, whose statistics depend on the micro-batches."""
    options = [
        *("model.backbone=timm/test_vit", "model.projector=[32]", "views.both.size_px=160", "eval.knn=false"),
        *("optim.lr_weights=20.0", "optim.lr_biases=0.3", "optim.warmup_epochs=0"),
    ]
    losses, norms = [], []
    for name, world_size, changes in (
        ("one", 1, []),
        ("two", 2, ["run.static_graph=true"]),
        ("accumulated", 2, ["optim.accumulation_steps=2", "run.gradient_as_bucket_view=false"]),
    ):
        result = pretrain_on(world_size, str(small_recipe), *options, *changes, f"run.output_dir={tmp_path}/{name}")
        assert result.returncode == 0, result.stderr
        lines = metrics(tmp_path / name)
        losses.append([line["loss"] for line in lines])
        norms.append([line[key] for line in lines[:3] for key in ("grad_norm", "update_norm")])
    one, *others = losses
    assert len(one) == 12
    for other, of_other in zip(others, norms[1:]):
        assert other == pytest.approx(one, rel=1e-3)
        assert of_other == pytest.approx(norms[0], rel=1e-2), "rounding counts for more in a gradient"
    assert one[-1] < 0.9 * one[0], "and something was learnt"


@pytest.mark.distributed
def test_two_ranks_have_the_batch_norm_of_one(small_recipe: Path, tmp_path: Path) -> None:
    """Losses, and the running statistics in the export. Later steps of so small a batch amplify rounding."""
    losses, backbones = [], []
    for name, world_size in (("one", 1), ("two", 2)):
        options = ["eval.knn=false", "run.max_steps=2", f"run.output_dir={tmp_path}/{name}"]
        assert pretrain_on(world_size, str(small_recipe), *options).returncode == 0
        losses.append([line["loss"] for line in metrics(tmp_path / name)])
        backbones.append(load_file(tmp_path / name / "export" / "backbone.safetensors"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    one, two = backbones
    for key in (key for key in one if "running" in key):
        torch.testing.assert_close(two[key], one[key], rtol=1e-2, atol=1e-3)


@pytest.mark.distributed
def test_two_ranks_resume_bit_for_bit(small_recipe: Path, tmp_path: Path) -> None:
    options = ["eval.knn=false", "run.checkpoint_every_steps=5"]
    whole = tmp_path / "whole"
    assert pretrain_on(2, str(small_recipe), *options, f"run.output_dir={whole}", "run.max_steps=7").returncode == 0
    for steps in (5, 7):
        assert pretrain_on(2, str(small_recipe), *options, f"run.max_steps={steps}").returncode == 0
    ours, theirs = (load_file(folder / "export" / "backbone.safetensors") for folder in (tmp_path / "run", whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.distributed
def test_the_doctor_examines_all_ranks(small_recipe: Path) -> None:
    command = [*ACCELERATE, *CPU_2PROC, "-m", "bt_plugin", "doctor", str(small_recipe), "optim.global_batch_size=7"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert result.returncode != 0
    assert result.stdout.count("2 ranks; they sum 16 MiB in") == 1, "rank 0 speaks"
    assert result.stdout.count("7 does not divide over 2 ranks") == 1


@pytest.mark.distributed
def test_a_wrong_recipe_is_told_once(small_recipe: Path) -> None:
    result = pretrain_on(2, str(small_recipe), "optim.global_batch_size=7")
    assert result.returncode != 0
    assert result.stderr.count("optim.global_batch_size: 7 does not divide over 2 ranks") == 1


@pytest.mark.distributed
def test_divergence_ends_all_ranks_and_is_told_once(small_recipe: Path) -> None:
    options = ["optim.lr_weights=1e30", "optim.warmup_epochs=0", "run.max_nonfinite_steps=2"]
    result = pretrain_on(2, str(small_recipe), *options)
    assert result.returncode != 0
    assert result.stderr.count("the embeddings of rank 0, 1 are not finite") == 1


def test_ranks_that_cannot_join_are_refused(small_recipe: Path, tmp_path: Path) -> None:
    """A cluster exports WORLD_SIZE, and no launcher runs."""
    result = launch(CPU, str(small_recipe), WORLD_SIZE="2")
    assert result.returncode != 0
    assert "$WORLD_SIZE is 2, but $" in result.stderr
    assert "or unset WORLD_SIZE" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_group_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_launch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match="WORLD_SIZE is 2, but this process is in a group of 1"):
        check_launch()


@pytest.mark.parametrize(
    "launcher",
    [[sys.executable], pytest.param([*ACCELERATE, *CPU_2PROC], marks=pytest.mark.distributed)],
    ids=["none", "2"],
)
def test_ctrl_c_and_the_same_line_again(small_recipe: Path, tmp_path: Path, launcher: list[str]) -> None:
    command = [*launcher, "-m", "bt_plugin", "pretrain", str(small_recipe), "optim.epochs=8", "eval.knn=false"]
    run_dir = tmp_path / "run"
    # A terminal sends the signal to all processes of the group.
    process = subprocess.Popen(
        command,
        start_new_session=True,
        # A shell's background job, such as a gate's, has the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 120
    # Two steps beyond a checkpoint: what is continued cuts them off the metrics.
    while steps_done(run_dir) < 10 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # The launchers have codes of their own.
    assert process.returncode == 130 if launcher == [sys.executable] else process.returncode != 0
    assert "Run the same command again to resume from the last checkpoint" in errors
    before = metrics(run_dir)
    assert 10 <= len(before) < 32, "stopped in the middle"

    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY, timeout=300)
    assert [line["step"] for line in metrics(run_dir)] == list(range(1, 33))
    assert metrics(run_dir)[:8] == before[:8], "what was done is not done again"
    assert json.loads((run_dir / "summary.json").read_text())["step"] == 32
