"""A run whose ranks hold shards of the model is the run of ranks that hold it whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.test_kill import learnt, live
from tests.test_launch import launch

CONFIG = "recipes/accelerate/fsdp.yaml"
# What the launcher makes of the recipe, with modules small enough to be sharded in a small model.
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
    "FSDP_MIN_NUM_PARAMS": "10000",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
LAUNCH = ["--config_file", CONFIG, "--num_processes", "2", "--fsdp_min_num_params", "10000"]
# No BatchNorm, so that micro-batches have the statistics of whole ones; and something is learnt.
OPTIONS = [
    *("model.backbone=timm/test_vit", "model.projector=[32]", "views.both.size_px=64", "run.checkpoint_every_steps=1"),
    *("optim.lr_weights=20.0", "optim.lr_biases=0.3", "optim.warmup_epochs=0"),
    *("run.max_steps=5", "eval.every_epochs=1", "eval.online_images=16", "eval.knn=false"),
]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in learnt(folder)]


def norms(folder: Path) -> list[float]:
    return [line[name] for line in learnt(folder) for name in ("grad_norm", "update_norm")]


@pytest.mark.slow
@pytest.mark.distributed
def test_shards_change_nothing(small_recipe: Path, tmp_path: Path) -> None:
    """Not the loss, with or without accumulation. A killed run resumes bit for bit, and without shards too."""
    sharded, whole, accumulated, mortal = (tmp_path / name for name in ("sharded", "whole", "accumulated", "mortal"))
    live(small_recipe, sharded, 2, options=OPTIONS, **SHARDED)
    live(small_recipe, whole, 2, options=OPTIONS)
    live(small_recipe, accumulated, 2, options=[*OPTIONS, "optim.accumulation_steps=2"], **SHARDED)
    assert abs(losses(whole)[-1] - losses(whole)[0]) > 0.1 * losses(whole)[0], "the weights moved"
    assert losses(sharded) == pytest.approx(losses(whole), rel=1e-4)
    assert norms(sharded) == pytest.approx(norms(whole), rel=1e-3)
    assert losses(accumulated) == pytest.approx(losses(whole), rel=1e-3)
    ours, theirs = (load_file(folder / "export" / "backbone.safetensors") for folder in (sharded, whole))
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)
    (ours_online,), (theirs_online,) = (
        [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
        for folder in (sharded, whole)
    )
    assert ours_online["rankme"] == pytest.approx(theirs_online["rankme"], rel=1e-2)

    assert live(small_recipe, mortal, 2, [14, 31], options=OPTIONS, **SHARDED) == 2
    assert learnt(mortal) == learnt(sharded)
    after_death = load_file(mortal / "export" / "backbone.safetensors")
    assert all(torch.equal(after_death[key], ours[key]) for key in ours)

    # The recipe, really launched, and then the same run by ranks that hold the whole model.
    run_dir = tmp_path / "run"
    result = launch(LAUNCH, str(small_recipe), *OPTIONS, "run.max_steps=2")
    assert result.returncode == 0, result.stderr
    live(small_recipe, run_dir, 2, options=OPTIONS)
    assert losses(run_dir) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.distributed
def test_what_shards_cannot_do_is_told(small_recipe: Path) -> None:
    result = launch([*LAUNCH, "--fsdp_version", "1"], str(small_recipe))
    assert result.returncode != 0
    assert result.stderr.count("fsdp_version must be 2: version 1 flattens weights") == 1
