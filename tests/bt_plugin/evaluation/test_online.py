"""Evaluations during a run: they are right, and they do not affect the run."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file
from torch import nn

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.evaluation.online import OnlineEvaluation
from bt_plugin.evaluation.online_probe import OnlineProbe
from bt_plugin.models.from_recipe import build_model
from bt_plugin.runtime import collectives
from bt_plugin.training.pretrain import pretrain
from dali_pipelines import image_folder
from tests.ranks import run_ranks
from tests.saved import weights_in
from tests.test_kill import learnt, live
from tests.tolerance import assert_rounded

EVERY = "eval.every_epochs=1"
VALUES = {
    "knn_top1", "probe_top1", "view_retrieval_top1", "view_retrieval_images", "rankme", "effective_rank", "lidar",
    "std_of_l2_normalized", "diagonal_mean", "diagonal_std", "off_diagonal_mean", "off_diagonal_std",
}  # fmt: skip


def train(recipe: Path, *overrides: str) -> dict[str, Any]:
    AcceleratorState._reset_state()
    PartialState._reset_state()
    return pretrain(load_recipe(recipe, list(overrides))).to_dict()


def evaluations(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    parts = [load_file(run_dir / "export" / f"{name}.safetensors") for name in ("backbone", "projector")]
    return parts[0] | parts[1]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_does_not_notice(small_recipe: Path, tmp_path: Path, accumulation: int) -> None:
    steps = f"optim.accumulation_steps={accumulation}"
    for name, options in (("with", [EVERY]), ("without", [])):
        train(small_recipe, *options, steps, f"run.output_dir={tmp_path}/{name}")
    ours, theirs = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert learnt(tmp_path / "with") == learnt(tmp_path / "without")
    lines = evaluations(tmp_path / "with")
    assert [(line["step"], line["epoch"]) for line in lines] == [(4, 0), (8, 1), (12, 2)]
    assert all(set(line) == VALUES | {"step", "epoch"} for line in lines)
    assert evaluations(tmp_path / "without") == []


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_do_not_notice_and_tell_the_same(small_recipe: Path, tmp_path: Path) -> None:
    live(small_recipe, tmp_path / "with", 2, options=[EVERY])
    live(small_recipe, tmp_path / "without", 2, options=[])
    ours, theirs = weights(tmp_path / "with"), weights(tmp_path / "without")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert [line["step"] for line in evaluations(tmp_path / "with")] == [4, 8, 12]


def test_a_stopped_run_tells_the_same(small_recipe: Path, tmp_path: Path) -> None:
    """The probe too, whose weights are in the checkpoint."""
    train(small_recipe, EVERY, f"run.output_dir={tmp_path}/whole")
    train(small_recipe, EVERY, "run.max_steps=6")
    summary = train(small_recipe, EVERY)
    assert evaluations(tmp_path / "run") == evaluations(tmp_path / "whole")
    ours, theirs = (weights_in(tmp_path / name / "checkpoint-12", "probe") for name in ("run", "whole"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    knn = [line["knn_top1"] for line in evaluations(tmp_path / "run")]
    assert summary["best"]["knn_top1"] == {"value": max(knn), "step": 4 * (1 + knn.index(max(knn)))}


def test_it_may_begin_later(small_recipe: Path, tmp_path: Path) -> None:
    """A checkpoint without a probe is a checkpoint."""
    train(small_recipe, "run.max_steps=6")
    train(small_recipe, EVERY)
    assert [line["step"] for line in evaluations(tmp_path / "run")] == [8, 12]


def test_bad_files_end_no_run(small_recipe: Path, small_data: Path, tmp_path: Path) -> None:
    """Neither in an evaluation during the run, nor at its end: training has replaced them by then."""
    data = shutil.copytree(small_data, tmp_path / "data")
    for path in (data / "train" / "coffee").iterdir(), (data / "val" / "rocket").iterdir():
        next(path).write_bytes(b"not an image")
    summary = train(small_recipe, EVERY, f"data.train={data}/train", f"data.val={data}/val")
    assert [line["step"] for line in evaluations(tmp_path / "run")] == [4, 8, 12]
    assert set(summary["knn_top1"]) == {"raw", "untrained", "calibrated", "pretrained"}


def test_without_labels_there_are_signs_without_labels(small_recipe: Path, small_data: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (small_data / "train").glob("*/*"):
        (flat / f"{path.parent.name}-{path.name}").symlink_to(path.resolve())
    train(small_recipe, EVERY, f"data.train={flat}", "run.max_steps=4")
    (line,) = evaluations(tmp_path / "run")
    assert set(line) == VALUES - {"knn_top1", "probe_top1"} | {"step", "epoch"}


def test_the_numbers_are_of_the_model_that_is_given(small_recipe: Path, small_data: Path) -> None:
    """The same model, the same numbers; a constant one has collapsed."""
    recipe = load_recipe(small_recipe)
    train, val = image_folder(small_data / "train"), image_folder(small_data / "val")
    online = OnlineEvaluation(
        recipe, partial(build_model, recipe), train, val=val, device=torch.device("cpu"), probe=None
    )
    model = build_model(recipe).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    look, again = online.run(model), online.run(model)
    first = look.values
    assert first == again.values
    assert all(np.array_equal(one, other) for one, other in zip(look.snapshot, again.snapshot))
    assert np.array_equal(look.views, again.views)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    other = build_model(recipe).train()
    other.backbone.conv5[1].running_mean.fill_(1e6)  # all that the last ReLU sees is below zero
    by_running_statistics = online.run(other).values  # as the exported one is used
    assert by_running_statistics["std_of_l2_normalized"] == 0
    nn.init.zeros_(model.projector[-1].weight)
    collapsed = online.run(model).values
    assert collapsed["std_of_l2_normalized"] == 0 < first["std_of_l2_normalized"]
    assert collapsed["rankme"] < 1.1 < first["rankme"]
    assert collapsed["lidar"] == 1 < first["lidar"]
    assert by_running_statistics["view_retrieval_top1"] == 1 / 36 < first["view_retrieval_top1"]
    assert collapsed["view_retrieval_top1"] == first["view_retrieval_top1"], "of the backbone"
    assert first["view_retrieval_images"] == 36
    assert collapsed["diagonal_mean"] == pytest.approx(0, abs=1e-3)
    assert collapsed["knn_top1"] == first["knn_top1"], "of the backbone"


def probed(rank: int, world_size: int) -> torch.Tensor:
    backbone = nn.Linear(4, 6, bias=False)
    nn.init.ones_(backbone.weight)
    probe = OnlineProbe(backbone, 6, classes=3, device=torch.device("cpu"), lr=0.5, seed=0)
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.randn(8, 4, generator=generator), torch.arange(8) % 3
    mine = slice(rank, None, world_size)
    for _ in range(3):
        backbone(images[mine])
        backbone(images[mine] + 1)
        with torch.no_grad():
            backbone(torch.full((5, 4), torch.nan))
        probe.step([targets[mine]], torch.zeros(()))
    assert collectives.world_size() == world_size
    return probe.classifier.classification_head.weight.detach()


@pytest.mark.distributed
def test_the_probe_learns_from_all_ranks() -> None:
    alone = probed(0, 1)
    for together in run_ranks(2, probed, 2):
        # Three steps, each a sum over the two views of eight images.
        assert_rounded(together, alone, terms=3 * 2 * 8)


def test_the_probe_learns_and_sends_nothing_back() -> None:
    backbone = nn.Linear(4, 6)
    probe = OnlineProbe(backbone, 6, classes=2, device=torch.device("cpu"), lr=0.5, seed=0)
    images = torch.cat([torch.randn(50, 4) + 2, torch.randn(50, 4) - 2])
    targets = torch.arange(2).repeat_interleave(50)
    for _ in range(20):
        backbone(images)
        backbone(images)
        probe.step([targets], torch.zeros(()))
    assert backbone.weight.grad is None
    with torch.no_grad():
        ranking = probe.ranking(backbone(images))
    assert (ranking[:, 0] == targets).float().mean() > 0.9
    before = probe.classifier.classification_head.weight.detach().clone()
    backbone(torch.full((2, 4), torch.nan))
    backbone(images[:2])
    probe.step([targets[:2]], torch.ones(()))
    assert torch.equal(probe.classifier.classification_head.weight, before), "a skipped step is skipped here too"


def test_probes_weights_leave_the_random_numbers_alone() -> None:
    backbone = nn.Linear(2, 2)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    OnlineProbe(backbone, 2, classes=2, device=torch.device("cpu"), lr=0.1, seed=0)
    assert torch.equal(torch.rand(2), expected)
