"""Whole runs on each device: resumed, in other precisions, compiled, sharded, and evaluated."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.bt_plugin.training.test_pretrain import learning, metrics, train
from tests.devices import on_each_device
from tests.forks import pretrain_on
from tests.saved import weights_in
from tests.test_fsdp import CONFIG, OPTIONS, SHARDED
from tests.test_launch import launch

# cuBLAS reads it at its first use in a process, which may be in another test.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def _flags() -> Iterator[None]:
    """Convolutions of a GPU in float32, as those of a CPU; and no flag of a run stays."""
    allowed, is_benchmark = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = allowed, is_benchmark
    torch.use_deterministic_algorithms(False)


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in metrics(run_dir)]


@on_each_device
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_resumed_run_is_the_same_run(small_recipe: Path, tmp_path: Path, device: str, accumulation: int) -> None:
    """Bit for bit, with deterministic algorithms; its last checkpoint has the weights that are exported."""
    options = [f"run.device={device}", "run.deterministic=true", "data.hw_decoder_load=0.0", "eval.every_epochs=1"]
    options += [f"optim.accumulation_steps={accumulation}", "run.checkpoint_every_steps=3", "eval.knn=false"]
    train(small_recipe, *options, "run.max_steps=6", f"run.output_dir={tmp_path}/whole")
    train(small_recipe, *options, "run.max_steps=3")
    summary = train(small_recipe, *options, "run.max_steps=6")
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    assert summary["device"] == ("cuda" if device == "gpu" else "cpu")
    assert learning(run_dir) == learning(whole)
    assert (run_dir / "evaluations.jsonl").read_text() == (whole / "evaluations.jsonl").read_text()
    saved = weights_in(run_dir / "checkpoint-6")
    ours, theirs = (load_file(folder / "export" / "backbone.safetensors") for folder in (run_dir, whole))
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key
        assert torch.equal(saved[f"backbone.{key}"].cpu(), value), key


@on_each_device
def test_views_of_the_cpu_train_alike(small_recipe: Path, tmp_path: Path, device: str) -> None:
    """The native backend computes them for any device, so that only the step is computed elsewhere."""
    options = ["data.backend=native", "run.max_steps=2", "eval.every_epochs=1"]
    here = train(small_recipe, *options, f"run.output_dir={tmp_path}/here")
    there = train(small_recipe, *options, f"run.device={device}")
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "here"), rel=1e-3)
    assert there["knn_top1"]["raw"] == here["knn_top1"]["raw"], "the same pixels have the same neighbors"
    assert set(there["knn_top1"]) == set(here["knn_top1"])


@on_each_device
def test_an_evaluation_in_a_run(small_recipe: Path, tmp_path: Path, device: str) -> None:
    options = ["data.backend=native", "eval.every_epochs=1", "eval.knn=false", "run.max_steps=4"]
    lines = []
    for name, where in (("here", "cpu"), ("run", device)):
        train(small_recipe, *options, f"run.device={where}", f"run.output_dir={tmp_path}/{name}")
        (line,) = (json.loads(each) for each in (tmp_path / name / "evaluations.jsonl").read_text().splitlines())
        lines.append(line)
    assert set(lines[0]) == set(lines[1])
    assert lines[1]["rankme"] == pytest.approx(lines[0]["rankme"], rel=1e-2)


@on_each_device
def test_accumulation_is_the_run_of_the_whole_batch(small_recipe: Path, tmp_path: Path, device: str) -> None:
    options = [f"run.device={device}", "data.hw_decoder_load=0.0", *OPTIONS, "eval.every_epochs=null"]
    for steps in (1, 4):
        train(small_recipe, *options, f"optim.accumulation_steps={steps}", f"run.output_dir={tmp_path}/{steps}")
    assert losses(tmp_path / "1")[-1] != losses(tmp_path / "1")[0], "the weights moved"
    assert losses(tmp_path / "4") == pytest.approx(losses(tmp_path / "1"), rel=1e-3)


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "bf16"),
        pytest.param("gpu", "bf16", marks=pytest.mark.gpu),
        pytest.param("gpu", "fp16", marks=pytest.mark.gpu),
    ],
)
def test_half_precision_trains_and_resumes(small_recipe: Path, tmp_path: Path, device: str, precision: str) -> None:
    """The loss stays in float32. The scale of fp16 is part of a checkpoint."""
    options = [f"run.device={device}", f"run.mixed_precision={precision}", "eval.knn=false"]
    train(small_recipe, *options, "run.max_steps=3")
    summary = train(small_recipe, *options, "run.max_steps=6")
    assert (summary["step"], summary["mixed_precision"]) == (6, precision)
    found = losses(tmp_path / "run")
    assert all(map(math.isfinite, found))
    half = torch.bfloat16 if precision == "bf16" else torch.float16
    assert any(loss != float(torch.tensor(loss).to(half)) for loss in found)


@pytest.mark.slow
@on_each_device
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++, by which torch.compile makes kernels")
def test_a_compiled_run_is_the_same(small_recipe: Path, tmp_path: Path, device: str) -> None:
    options = [f"run.device={device}", "data.backend=native", "model.backbone=timm/test_resnet", "eval.knn=false"]
    for name, choice in (("plain", "false"), ("compiled", "true")):
        choices = [f"run.compile={choice}", f"run.output_dir={tmp_path}/{name}", "run.max_steps=2"]
        train(small_recipe, *options, *choices)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("device", "ranks"), [("cpu", 2), pytest.param("gpu", 1, marks=pytest.mark.gpu)])
def test_shards_of_a_launch(small_recipe: Path, tmp_path: Path, device: str, ranks: int) -> None:
    """FSDP 2 on one card, or on two ranks of a CPU: the run of ranks that hold the whole model."""

    def run(name: str, *more: str) -> None:
        options = [*OPTIONS, f"run.device={device}", "data.backend=native", f"run.output_dir={tmp_path}/{name}", *more]
        if device == "cpu":  # test_fsdp.py launches ranks of a CPU
            result = pretrain_on(ranks, str(small_recipe), *options, **(SHARDED if name == "sharded" else {}))
        else:
            sharded = ["--config_file", CONFIG, "--fsdp_min_num_params", "10000"]
            config = sharded if name == "sharded" else ["--config_file", "recipes/accelerate/1gpu.yaml"]
            result = launch([*config, "--num_processes", str(ranks)], str(small_recipe), *options)
        assert result.returncode == 0, result.stderr

    run("sharded")
    run("plain")
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    run("sharded", "run.max_steps=6")
    assert len(losses(tmp_path / "sharded")) == 6
