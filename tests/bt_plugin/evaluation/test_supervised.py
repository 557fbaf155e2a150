"""Classifiers: what is trained and what stays, and that one that was stopped is the same one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from bt_plugin.config.evaluation_recipe import EvaluationRecipe, Finetune, Linear, Supervised
from bt_plugin.errors import DivergenceError
from bt_plugin.evaluation.accuracy import Accuracy
from bt_plugin.evaluation.supervised import Classifier, train_classifier
from bt_plugin.models.backbones import build_backbone
from dali_pipelines import Backend, Batch, EvalLoader, TwoViewLoader

LINEAR = Linear(epochs=3, global_batch_size=12, lr_classifier=0.05)
FINETUNE = Finetune(epochs=3, global_batch_size=12, lr_classifier=0.05, lr_backbone=0.01)


@pytest.fixture
def protocol(small_data: Path) -> EvaluationRecipe:
    return EvaluationRecipe.model_validate(
        {
            "data": {"train": str(small_data / "train"), "val": str(small_data / "val")},
            "view": {"size_px": 32, "resize_px": 32},
        }
    )


class StoppedError(Exception):
    """As by a kill."""


class Stopping(TwoViewLoader):
    """Is stopped in the middle of its second epoch."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if self.state_dict()["epoch"] == 1 and self.state_dict()["step"] == 2:
                raise StoppedError
            yield batch


def classifier(options: Supervised) -> Classifier:
    torch.manual_seed(0)
    backbone = build_backbone("torchvision/resnet18", stem="small").module
    return Classifier(backbone, 512, classes=3, frozen=isinstance(options, Linear))


def train(
    protocol: EvaluationRecipe, options: Supervised, folder: Path, loader: type[TwoViewLoader] = TwoViewLoader
) -> tuple[Accuracy, Classifier]:
    AcceleratorState._reset_state()
    PartialState._reset_state()
    model = classifier(options)
    crops = loader(
        protocol.data.train,
        options.global_batch_size,
        protocol.view.random,
        backend=Backend(device="cpu", num_threads=1),
    )
    centres = EvalLoader(protocol.data.val, 5, protocol.view.centre, backend=Backend(device="cpu", num_threads=1))
    accuracy = train_classifier(
        Accelerator(cpu=True), model, train=crops, val=centres, recipe=protocol, options=options, folder=folder
    )
    return accuracy, model


def test_a_frozen_backbone_stays_bit_for_bit(protocol: EvaluationRecipe, tmp_path: Path) -> None:
    """BatchNorm's statistics too."""
    before = copy.deepcopy(classifier(LINEAR).state_dict())
    accuracy, model = train(protocol, LINEAR, tmp_path)
    after = model.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"head.weight", "head.bias"}
    assert accuracy.n == 12
    assert accuracy.top5 == 12, "of three classes"
    assert list(tmp_path.iterdir()) == [], "checkpoints are removed"


def test_fine_tuning_moves_all_of_it_and_learns(protocol: EvaluationRecipe, tmp_path: Path) -> None:
    before = copy.deepcopy(classifier(FINETUNE).state_dict())
    accuracy, model = train(protocol, FINETUNE.model_copy(update={"epochs": 12}), tmp_path)
    after = model.state_dict()
    stayed = {key for key in before if torch.equal(before[key], after[key])}
    assert not {key for key in stayed if not key.endswith("bn1.weight")}, "but for steps that rounding swallows"
    assert accuracy.top1 >= 8, "of 12, where 4 are chance"


def test_the_rates_are_the_options(protocol: EvaluationRecipe, tmp_path: Path) -> None:
    """A backbone's rate of zero is a backbone that stays, but for BatchNorm's statistics."""
    _, model = train(protocol, FINETUNE.model_copy(update={"lr_backbone": 0.0}), tmp_path)
    before, after = dict(classifier(FINETUNE).named_parameters()), dict(model.named_parameters())
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"head.weight", "head.bias"}


def test_rates_follow_a_cosine_over_epochs(protocol: EvaluationRecipe, tmp_path: Path) -> None:
    rates: list[tuple[float, ...]] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        rates.append(tuple(group["lr"] for group in optimizer.param_groups))

    handle = register_optimizer_step_pre_hook(note)
    try:
        train(protocol, FINETUNE, tmp_path)
    finally:
        handle.remove()
    assert len(rates) == 9
    for step, pair in enumerate(rates):
        scale = (1.0, 0.75, 0.25)[step // 3]
        assert pair == pytest.approx((0.05 * scale, 0.01 * scale))


@pytest.mark.parametrize("options", [LINEAR, FINETUNE], ids=["linear", "finetune"])
def test_a_stopped_one_goes_on_as_the_same(protocol: EvaluationRecipe, tmp_path: Path, options: Supervised) -> None:
    whole, theirs = train(protocol, options, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(protocol, options, tmp_path / "stopped", Stopping)
    again, ours = train(protocol, options, tmp_path / "stopped")
    assert again == whole
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


def test_another_recipe_does_not_go_on_from_it(protocol: EvaluationRecipe, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(protocol, LINEAR, tmp_path / "stopped", Stopping)
    other = LINEAR.model_copy(update={"lr_classifier": 0.01})
    _, ours = train(protocol, other, tmp_path / "stopped")
    _, theirs = train(protocol, other, tmp_path / "whole")
    assert torch.equal(ours.head.weight, theirs.head.weight)


def test_other_weights_do_not_go_on_from_it(
    protocol: EvaluationRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their backbone is in the checkpoint: it would be the one that is evaluated."""
    with pytest.raises(StoppedError):
        train(protocol, LINEAR, tmp_path, Stopping)
    other = classifier(LINEAR)
    nn.init.ones_(other.backbone.layer4[1].bn2.weight)
    monkeypatch.setattr(f"{__name__}.classifier", lambda options: other)
    _, model = train(protocol, LINEAR, tmp_path)
    assert torch.equal(model.backbone.layer4[1].bn2.weight, torch.ones(512))


def test_a_loss_that_is_not_finite_ends_it(protocol: EvaluationRecipe, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"epoch \d, step \d: the loss is (nan|inf); use lower learning rates"):
        train(protocol, FINETUNE.model_copy(update={"lr_backbone": 1e20, "lr_classifier": 1e20}), tmp_path)


def test_a_last_step_that_diverges_is_no_result(protocol: EvaluationRecipe, tmp_path: Path) -> None:
    """The losses were finite, because the step after each of them is the one that diverges."""
    options = FINETUNE.model_copy(update={"epochs": 1, "global_batch_size": 36, "lr_backbone": 1e30})
    with pytest.raises(DivergenceError, match=r"^finetune: the outputs .* for 12 of 12 images; use lower"):
        train(protocol, options, tmp_path)


def test_the_head_begins_as_the_official_one() -> None:
    head = Classifier(nn.Identity(), 4096, classes=100, frozen=True).head
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.bias.abs().sum() == 0
