"""Small runs from end to end, in this process: what they write, and that a resumed one is the same run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import CheckpointError, DivergenceError, RecipeError
from bt_plugin.models.from_recipe import build_model
from bt_plugin.runtime.async_copy import AsyncCopy
from bt_plugin.training.loop import Training
from bt_plugin.training.pretrain import pretrain
from bt_plugin.weights.export_folder import load_backbone
from dali_pipelines import BadImageError, image_folder
from tests.bt_plugin.checkpoints.test_writer import full_disk
from tests.saved import weights_in
from tests.tar_files import write_shard


@pytest.fixture(autouse=True)
def _fresh_accelerate_state() -> None:
    AcceleratorState._reset_state()
    PartialState._reset_state()


def train(recipe: Path, *overrides: str) -> dict[str, Any]:
    AcceleratorState._reset_state()
    PartialState._reset_state()
    return pretrain(load_recipe(recipe, list(overrides))).to_dict()


def metrics(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def learning(run_dir: Path) -> list[dict[str, float]]:
    """Metrics without the clock's."""
    return [{k: v for k, v in line.items() if k not in ("images_per_s", "data_wait")} for line in metrics(run_dir)]


def best(run_dir: Path) -> dict[str, Any]:
    of_run: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())["best"]
    return of_run


def test_a_run_writes_all_it_says(small_recipe: Path, tmp_path: Path) -> None:
    summary = train(small_recipe)
    run_dir = tmp_path / "run"
    assert summary == json.loads((run_dir / "summary.json").read_text())
    losses = [line["loss"] for line in metrics(run_dir)]
    assert summary["best"]["loss"] == {"value": min(losses), "step": 1 + losses.index(min(losses))}
    assert (summary["step"], summary["epochs"], summary["world_size"]) == (12, 3, 1)
    assert set(summary["knn_top1"]) == {"raw", "untrained", "calibrated", "pretrained"}
    assert all(0 <= value <= 1 for value in summary["knn_top1"].values())

    lines = metrics(run_dir)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["epoch"] for line in lines] == [0] * 4 + [1] * 4 + [2] * 4
    first = lines[0]
    assert set(first) == {
        "step", "epoch", "loss", "invariance", "redundancy", "lr_weights", "lr_biases", "images_per_s", "data_wait",
        "nonfinite_steps", "diagonal_mean", "embedding_std", "grad_norm", "update_norm",
    }  # fmt: skip
    assert first["loss"] == pytest.approx(first["invariance"] + 5.1e-3 * first["redundancy"], rel=1e-5)
    assert first["lr_weights"] == 0, "warm-up begins at zero"
    assert lines[4]["lr_weights"] == pytest.approx(0.2 * 8 / 256), "the base rate, times global_batch_size / 256"
    assert lines[4]["lr_biases"] == pytest.approx(0.01 * 8 / 256)
    assert list((run_dir / "tensorboard").rglob("events.*"))
    assert sorted(path.name for path in run_dir.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-8"]
    assert not list(run_dir.rglob("*.partial"))


def test_the_export_loads_where_it_should(small_recipe: Path, tmp_path: Path) -> None:
    overrides = ("model.backbone=torchvision/resnet18", "run.max_steps=2", "eval.knn=false")
    train(small_recipe, *overrides)
    export = tmp_path / "run" / "export"
    state = load_file(export / "backbone.safetensors")
    theirs = torchvision.models.resnet18()
    missing = theirs.load_state_dict(state, strict=False)
    assert set(missing.missing_keys) == {"fc.weight", "fc.bias"}
    assert not missing.unexpected_keys

    model = build_model(load_recipe(small_recipe, list(overrides)))
    model.load_state_dict(weights_in(tmp_path / "run" / "checkpoint-2"))
    images = torch.rand(4, 3, 32, 32)
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = model.backbone.eval()(images)
        assert torch.equal(theirs.eval()(images), expected)
        assert torch.equal(load_backbone(export).module.eval()(images), expected)
    assert set(load_file(export / "projector.safetensors")) == set(model.projector.state_dict())
    description = json.loads((export / "model.json").read_text())
    assert description["feature_dim"] == 512
    assert description["embedding_dim"] == 32
    assert description["eval_view"]["mean"] == [0.485, 0.456, 0.406]
    assert description["versions"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize(("stop", "accumulation"), [(3, 1), (4, 1), (6, 1), (6, 4)])
def test_a_stopped_run_continues_as_the_same_run(
    small_recipe: Path, tmp_path: Path, stop: int, accumulation: int
) -> None:
    """In mid-epoch, at an epoch's edge, and after another checkpoint: bit for bit."""
    steps = f"optim.accumulation_steps={accumulation}"
    train(small_recipe, steps, f"run.output_dir={tmp_path}/whole")
    train(small_recipe, steps, f"run.max_steps={stop}", "run.checkpoint_every_steps=3")
    train(small_recipe, steps, "run.checkpoint_every_steps=3")
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    assert learning(run_dir) == learning(whole)
    assert best(run_dir) == best(whole)
    for name in ("export/backbone.safetensors", "export/projector.safetensors"):
        ours, theirs = load_file(run_dir / name), load_file(whole / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_accumulation_is_the_run_of_the_whole_batch(small_recipe: Path, tmp_path: Path) -> None:
    """Images, views, loss and gradient: all but BatchNorm, which takes its statistics by micro-batch."""
    options = [
        *("model.backbone=timm/test_vit", "model.projector=[32]", "views.both.size_px=160", "eval.knn=false"),
        *("optim.lr_weights=20.0", "optim.lr_biases=0.3", "optim.warmup_epochs=0"),
    ]
    runs = {}
    for steps in (1, 4):
        train(small_recipe, *options, f"optim.accumulation_steps={steps}", f"run.output_dir={tmp_path}/{steps}")
        runs[steps] = metrics(tmp_path / str(steps))
    assert [line["epoch"] for line in runs[4]] == [0] * 4 + [1] * 4 + [2] * 4
    assert [line["loss"] for line in runs[4]] == pytest.approx([line["loss"] for line in runs[1]], rel=1e-3)
    assert runs[1][-1]["loss"] < 0.9 * runs[1][0]["loss"], "and something was learnt"


def test_the_accumulation_of_a_run_may_change(small_recipe: Path, tmp_path: Path) -> None:
    train(small_recipe, "run.max_steps=2")
    train(small_recipe, "run.max_steps=4", "optim.accumulation_steps=2")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_numbers_that_come_late_are_told_before_a_checkpoint(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a GPU that has not done the step yet."""
    options = ["eval.every_epochs=1", "eval.knn=false"]
    train(small_recipe, f"run.output_dir={tmp_path}/early", *options)
    monkeypatch.setattr(AsyncCopy, "is_here", False)
    told_at: list[int] = []
    save = Training._save

    def noting(training: Training) -> None:
        told_at.append(len(metrics(tmp_path / "run")))
        save(training)

    monkeypatch.setattr(Training, "_save", noting)
    train(small_recipe, *options)
    assert told_at == [4, 8, 12]
    assert learning(tmp_path / "run") == learning(tmp_path / "early")
    assert best(tmp_path / "run") == best(tmp_path / "early")


@pytest.mark.parametrize("last", [[], ["run.max_steps=4"]])
def test_a_full_disk_ends_the_run_before_the_next_checkpoint(
    small_recipe: Path, tmp_path: Path, last: list[str]
) -> None:
    """The thread that writes knows of it; an epoch that is never saved is not worth training. The last counts too."""
    with full_disk(200_000), pytest.raises(CheckpointError, match="checkpoint-4 cannot be written"):
        train(small_recipe, *last)
    assert 4 <= len(metrics(tmp_path / "run")) < 8
    assert train(small_recipe)["step"] == 12


@pytest.mark.parametrize("most", [0, 3])
def test_divergence_ends_the_run_before_the_weights_are_touched(small_recipe: Path, tmp_path: Path, most: int) -> None:
    options = ["optim.lr_weights=1e30", "optim.warmup_epochs=0", "run.checkpoint_every_steps=1"]
    with pytest.raises(
        DivergenceError, match=rf"step {2 + most}: the embeddings of rank 0 are not finite, .*optim\.lr_weights"
    ):
        train(small_recipe, *options, f"run.max_nonfinite_steps={most}")
    first, last = (weights_in(tmp_path / "run" / f"checkpoint-{step}") for step in (max(most, 1), 1 + most))
    assert all(torch.equal(first[key], last[key]) for key in first)


def test_a_given_checkpoint_is_continued(small_recipe: Path, tmp_path: Path) -> None:
    train(small_recipe, "run.keep_checkpoints=3")
    run_dir = tmp_path / "run"
    before = learning(run_dir)
    train(small_recipe, f"run.resume={run_dir}/checkpoint-4", "run.keep_checkpoints=3")
    assert learning(run_dir) == before
    with pytest.raises(RecipeError, match=r"checkpoint-5 is not a complete checkpoint.*checkpoint-4, checkpoint-8"):
        train(small_recipe, f"run.resume={run_dir}/checkpoint-5")


def test_an_incomplete_checkpoint_is_not_taken(small_recipe: Path, tmp_path: Path) -> None:
    train(small_recipe, "run.max_steps=8")
    run_dir = tmp_path / "run"
    (run_dir / "checkpoint-8" / "manifest.json").unlink()
    train(small_recipe, "run.max_steps=5")
    assert [line["step"] for line in metrics(run_dir)] == [1, 2, 3, 4, 5]


def test_a_finished_run_is_not_trained_again(small_recipe: Path, tmp_path: Path) -> None:
    first = train(small_recipe)
    lines = metrics(tmp_path / "run")
    assert train(small_recipe) == first
    assert metrics(tmp_path / "run") == lines


def test_other_images_are_refused_on_resume(small_recipe: Path, small_data: Path) -> None:
    train(small_recipe, "run.max_steps=4")
    with pytest.raises(RecipeError, match=r"checkpoint-4: loader state: the number of images \(n_samples\) was"):
        train(small_recipe, f"data.train={small_data}/val")


def test_a_flat_folder_trains_without_probes(small_recipe: Path, small_data: Path) -> None:
    summary = train(small_recipe, f"data.train={small_data}/train/coffee", "run.max_steps=2")
    assert summary["knn_top1"] is None
    assert summary["step"] == 2


def test_shards_train_and_are_evaluated(small_recipe: Path, small_data: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        source = image_folder(small_data / split)
        members = {f"{index}.jpg": source.read(index).tobytes() for index in range(len(source))}
        labels = {f"{index}.cls": str(label).encode() for index, label in enumerate(source.labels)}
        write_shard(tmp_path / f"{split}.tar", members | labels)
    summary = train(small_recipe, f"data.train={tmp_path}/train.tar", f"data.val={tmp_path}/val.tar", "run.max_steps=4")
    of_files = f"run.output_dir={tmp_path}/of_files"
    assert train(small_recipe, of_files, "run.max_steps=4")["knn_top1"] == summary["knn_top1"]


def test_arrays_of_five_channels_train(small_recipe: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "bands.npz", images=rng.integers(0, 256, (16, 40, 40, 5), np.uint8), labels=np.arange(16) % 2)
    data = [f"data.train={tmp_path}/bands.npz", f"data.val={tmp_path}/bands.npz", "run.max_steps=2"]
    with pytest.raises(RecipeError, match=r"images of .*bands\.npz have 5 channels, and model.in_chans is 3"):
        train(small_recipe, *data)
    values = ["model.in_chans=5", f"views.both.mean={[0.5] * 5}", f"views.both.std={[0.2] * 5}"]
    summary = train(small_recipe, *data, *values)
    assert summary["knn_top1"] is not None
    assert load_backbone(tmp_path / "run" / "export").module(torch.zeros(2, 5, 32, 32)).ndim == 2


def test_the_recipes_max_pixels_reaches_the_loader(small_recipe: Path) -> None:
    """The images have 96 x 96 pixels."""
    with pytest.raises(BadImageError, match="96 x 96 pixels are more than max_pixels, 9215"):
        train(small_recipe, "data.max_pixels=9215", "data.max_bad_files=0")


def test_other_classes_in_validation_are_left_out(
    small_recipe: Path, small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pretraining needs no classes, so they do not keep it from training."""
    val = tmp_path / "val"
    for name, here in (("chelsea", "tiger"), ("rocket", "rocket")):
        (val / here).mkdir(parents=True)
        (val / here / "1.jpg").write_bytes(next((small_data / "val" / name).iterdir()).read_bytes())
    assert train(small_recipe, f"data.val={val}", "run.max_steps=1")["knn_top1"] is None
    assert "unknown classes: tiger" in caplog.text


def test_bf16_trains_and_keeps_the_loss_in_float32(small_recipe: Path, tmp_path: Path) -> None:
    train(small_recipe, "run.mixed_precision=bf16", "run.max_steps=2")
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert all(loss != float(torch.tensor(loss).bfloat16()) for loss in losses)


@pytest.mark.parametrize(
    "choice", ["run.memory_format=contiguous", "run.memory_format=channels_last", "run.static_graph=true"]
)
def test_how_a_step_is_computed_changes_rounding_only(small_recipe: Path, tmp_path: Path, choice: str) -> None:
    losses = []
    for name, choices in (("plain", []), ("chosen", [choice])):
        train(small_recipe, f"run.output_dir={tmp_path}/{name}", "run.max_steps=2", "eval.knn=false", *choices)
        losses.append([line["loss"] for line in metrics(tmp_path / name)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++, by which torch.compile makes kernels")
def test_a_compiled_run_is_the_same_and_goes_on_uncompiled(small_recipe: Path, tmp_path: Path) -> None:
    options = ["model.backbone=timm/test_resnet", "eval.every_epochs=1", "eval.knn=false"]
    train(small_recipe, f"run.output_dir={tmp_path}/plain", "run.max_steps=4", *options)
    counters.clear()
    train(small_recipe, "run.compile=true", "run.max_steps=4", *options)
    assert counters["stats"]["unique_graphs"] >= 2, "of backbone and projector"
    losses = [[line["loss"] for line in metrics(tmp_path / name)] for name in ("plain", "run")]
    assert losses[0][:2] == pytest.approx(losses[1][:2], rel=1e-3)
    assert not any("_orig_mod" in key for key in weights_in(tmp_path / "run" / "checkpoint-4"))
    assert train(small_recipe, "run.max_steps=5", *options)["step"] == 5


def test_without_a_compiler_nothing_is_compiled(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RecipeError, match=r"run\.compile: true needs a C\+\+ compiler.* Install g\+\+"):
        train(small_recipe, "run.compile=true")
    assert not (tmp_path / "run").exists()


def test_the_launchers_precision_is_taken(small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert train(small_recipe, "run.max_steps=1")["mixed_precision"] == "bf16"
    other = f"run.output_dir={tmp_path}/other"
    assert train(small_recipe, other, "run.max_steps=1", "run.mixed_precision=no")["mixed_precision"] == "no"


def test_the_untrained_model_is_a_function_of_the_seed(small_recipe: Path) -> None:
    one, same, other = (build_model(load_recipe(small_recipe, [f"run.seed={seed}"])) for seed in (0, 0, 1))
    weights = [model.projector[0].weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("run.mixed_precision=fp16", "run.mixed_precision: fp16"),
        ("data.train=nowhere", r"data\.train: .*nowhere: does not exist"),
        ("data.val=nowhere", r"data\.val: .*nowhere: does not exist"),
        ("model.backbone=torchvision/resnet19", "model.backbone: .*did you mean torchvision/resnet18"),
        ("optim.global_batch_size=64", "optim.global_batch_size: 64 is more than the 36 images"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    small_recipe: Path, tmp_path: Path, override: str, named: str
) -> None:
    with pytest.raises(RecipeError, match=named):
        train(small_recipe, override)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(small_recipe: Path) -> None:
    with pytest.raises(RecipeError, match=re.escape("run.device: gpu")):
        train(small_recipe, "run.device=gpu")


@pytest.mark.gpu
def test_a_gpu_run_trains(small_recipe: Path, tmp_path: Path) -> None:
    summary = train(small_recipe, "run.device=gpu", "run.mixed_precision=bf16")
    assert summary["device"] == "cuda"
    assert len(metrics(tmp_path / "run")) == 12
