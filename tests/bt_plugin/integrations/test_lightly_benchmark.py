"""The method of Lightly's ImageNet benchmark, as its main.py uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightly.data import LightlyDataset
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader

from bt_plugin import BarlowTwinsLoss, lr_scale
from bt_plugin.integrations.lightly_benchmark import METHODS, BarlowTwins, two_view_loader
from dali_pipelines import PRESETS, Backend, EvalLoader, EvalParams
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")

SMALL: dict[str, Any] = {"backbone": "torchvision/shufflenet_v2_x0_5", "projector": [32, 32]}


def small(batch_size: int = 6, num_classes: int = 3, **options: Any) -> BarlowTwins:
    return BarlowTwins(batch_size, num_classes, **{**SMALL, **options})


def fit(module: BarlowTwins, train: Any, data: Path, folder: Path, epochs: int) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, train, EvalLoader(data / "val", 6, EvalParams(32, 32), backend=Backend(device="cpu")))
    return trainer


def test_the_table_has_the_benchmarks_form() -> None:
    """main.py makes the model of two arguments and the transform from a PIL image."""
    (name, method), *others = METHODS.items()
    assert (name, others) == ("barlowtwins", [])
    assert set(method) == {"model", "transform"}
    assert method["model"] is BarlowTwins
    assert method["transform"].views == PRESETS["barlow_twins"].views


def test_the_loss_is_of_two_separate_passes() -> None:
    """BatchNorm takes the statistics of each view; the classifier's loss moves nothing else.

    In float64: statistics of six samples divide by small deviations, which multiplies rounding by thousands.
    """
    module = small().double()
    module.log = module.log_dict = lambda *_, **__: None
    reference = small().double()
    reference.load_state_dict(module.state_dict())
    images = torch.randn(2, 6, 3, 32, 32, dtype=torch.float64)
    views, targets = (images[0], 2 + images[1]), torch.tensor([0, 1, 2, 0, 1, 2])
    module.training_step((views, targets, [""] * 6), 0).backward()
    BarlowTwinsLoss(5.1e-3)(*(reference.model.projector(reference.model.backbone(view)) for view in views)).backward()
    for (name, ours), theirs in zip(module.model.named_parameters(), reference.model.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")
    assert module.online_classifier.classification_head.weight.grad is not None
    assert module.criterion.gather_distributed, "and of all ranks"


@pytest.mark.parametrize(("epochs", "warmup_steps"), [(1, 1), (20, 100)])
def test_rates_are_the_official_ones(epochs: int, warmup_steps: int) -> None:
    """By the global batch; a run of one epoch has a schedule too."""
    module = small(batch_size=128)
    steps = 10 * epochs
    module._trainer = SimpleNamespace(world_size=4, estimated_stepping_batches=steps, max_epochs=epochs)  # type: ignore
    ((optimizer,), (scheduler,)) = module.configure_optimizers()
    weights, biases, classifier = optimizer.param_groups
    rates = []
    for _ in range(steps):
        rates.append((weights["lr"], biases["lr"], classifier["lr"]))
        optimizer.step()
        scheduler["scheduler"].step()
    scales = [lr_scale(step, steps, warmup_steps=warmup_steps) for step in range(steps)]
    assert rates == [pytest.approx((0.4 * scale, 0.0006 * scale, 0.4 * scale)) for scale in scales]
    assert (weights["weight_decay"], biases["weight_decay"], classifier["weight_decay"]) == (1.6e-5, 0, 0)
    assert (weights["adapt"], biases["adapt"], classifier["adapt"]) == (True, False, False)
    assert scheduler["interval"] == "step"


@pytest.mark.parametrize("loader", ["lightlys", "ours"])
def test_it_trains_for_one_epoch(small_data: Path, tmp_path: Path, loader: str) -> None:
    dataset = LightlyDataset(str(small_data / "train"), transform=METHODS["barlowtwins"]["transform"])
    if loader == "lightlys":
        train = DataLoader(dataset, 6, shuffle=True, drop_last=True)
    else:
        views = PRESETS["barlow_twins"].changed(size_px=32)
        train = two_view_loader(dataset, 6, views=views, backend=Backend(device="cpu"))
    module = small(lr_weights=2.0, lr_biases=1.0)
    before = {name: value.clone() for name, value in module.named_parameters()}
    trainer = fit(module, train, small_data, tmp_path, epochs=1)
    assert trainer.global_step == 6
    assert torch.isfinite(trainer.callback_metrics["train_loss"])
    assert 0 <= trainer.callback_metrics["val_online_cls_top1"] <= 1
    assert "val_online_cls_top5" not in trainer.callback_metrics, "there are three classes"
    unmoved = [name for name, value in module.named_parameters() if torch.equal(before[name], value)]
    assert unmoved == []


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.skipif("LIGHTLY_CHECKOUT" not in os.environ, reason="$LIGHTLY_CHECKOUT names no clone of Lightly")
def test_the_whole_benchmark_runs(small_data: Path, tmp_path: Path, devices: int) -> None:
    """Lightly's own main.py, unchanged: pretraining, kNN, linear evaluation, fine-tuning; of six pictures."""
    data = tmp_path / "data"
    for label in (small_data / "val").iterdir():
        (data / label.name).mkdir(parents=True)
        for file in sorted(label.iterdir())[:2]:
            (data / label.name / file.name).symlink_to(file)
    script = tmp_path / "run.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {os.environ["LIGHTLY_CHECKOUT"] + "/benchmarks/imagenet/resnet50"!r})
import main
from bt_plugin.integrations import lightly_benchmark
main.METHODS.update(lightly_benchmark.METHODS)
if __name__ == "__main__":
    main.main(**vars(main.parser.parse_args()))
""")
    options = {
        "train-dir": data,
        "val-dir": data,
        "log-dir": tmp_path / "logs",
        "batch-size-per-device": 6 // devices,
        "epochs": 1,
        "num-workers": 1,
        "accelerator": "cpu",
        "devices": devices,
        "precision": "32",
        "methods": "barlowtwins",
        "num-classes": 5,
        "knn-k": 2,
    }
    command = [sys.executable, str(script), *(f"--{key}={value}" for key, value in options.items())]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    for line in ("Results for barlowtwins", "max linear val_top1", "max finetune val_top1"):
        assert line in result.stdout
