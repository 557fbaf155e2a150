"""A step: what the host waits for, which is nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bt_plugin.config.optim import Optim
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.data.from_recipe import build_loader, open_sources
from bt_plugin.evaluation.online_probe import probed_classes
from bt_plugin.models.from_recipe import build_model
from bt_plugin.optim import lars
from bt_plugin.optim.from_recipe import make_state
from bt_plugin.runtime.accelerator import build_accelerator
from bt_plugin.training.step import TrainStep
from bt_plugin.training.step_norms import StepNorms
from dali_pipelines.loaders import Batch

# Whose results the host reads, or whose shapes depend on values.
# lift_fresh brings a Python number to the device by a copy that the host waits for.
_READS = {
    "lift_fresh",
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "unique_consecutive",
    "_unique2",
}
ADAMW = ["optim.name=adamw", "optim.lr_biases=0.0003", "optim.clip_grad_norm=0.1"]
CHOICES = [
    [],
    ["model.activation_checkpointing=blocks"],
    ["optim.accumulation_steps=2"],
    ["run.mixed_precision=bf16"],
    ["eval.every_epochs=1"],
    ADAMW,
]


class Reads(TorchDispatchMode):
    """Which operations would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _READS:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def step_of(recipe: Path, *overrides: str) -> tuple[TrainStep, list[Batch]]:
    """And its micro-batches."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    loaded = load_recipe(recipe, list(overrides))
    accelerator = build_accelerator(loaded.run)
    source, _ = open_sources(loaded)
    train_step = TrainStep(loaded, accelerator, build_model(loaded), num_classes=probed_classes(loaded, source))
    batches = iter(build_loader(loaded, source, accelerator))
    return train_step, [next(batches) for _ in range(loaded.optim.accumulation_steps)]


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_a_step_reads_nothing_from_the_device(
    small_recipe: Path, choices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the operations alone, so that it is seen without a GPU; with its optimizer's way, not that of a CPU."""
    monkeypatch.setattr(lars, "_is_plain_on_cpu", lambda p: False)
    train_step, batch = step_of(small_recipe, *choices)
    with Reads() as reads:
        for _ in range(3):
            train_step(batch)
    assert reads.seen == []
    with reads:
        train_step.nonfinite.total.item()
    assert len(reads.seen) == 1, "a read would be seen"


@pytest.mark.gpu
@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_a_step_never_waits_for_the_gpu(small_recipe: Path, choices: list[str]) -> None:
    train_step, batch = step_of(small_recipe, "run.device=gpu", *choices)
    # The first steps allocate, and choose algorithms.
    for _ in range(2):
        train_step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            train_step(batch)
        with pytest.raises(RuntimeError, match="synchroniz"):
            train_step.nonfinite.total.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_norms_are_those_of_the_logged_steps(small_recipe: Path) -> None:
    """Measured around the update, against plain sums; a skipped step changes nothing; other steps measure nothing."""
    train_step, (batch,) = step_of(small_recipe, "run.log_every_steps=2")
    parameters = list(train_step.model.parameters())
    train_step([batch], lr_scale=0.5)
    assert train_step.norms.values == {}
    before = [p.detach().clone() for p in parameters]
    gradients: list[Tensor] = []
    hook = train_step.optimizer.register_step_pre_hook(lambda *_: gradients.extend(p.grad.clone() for p in parameters))
    train_step([batch], lr_scale=0.5)
    hook.remove()
    norms = dict(train_step.norms.values)
    squares = sum(float(gradient.double().square().sum()) for gradient in gradients)
    assert float(norms["grad_norm"]) == pytest.approx(math.sqrt(squares), rel=1e-5)
    squares = sum(float((p.detach() - old).double().square().sum()) for p, old in zip(parameters, before))
    assert float(norms["update_norm"]) == pytest.approx(math.sqrt(squares), rel=1e-5)
    assert squares > 0
    spoilt = batch._replace(views=tuple(view * math.nan for view in batch.views))
    train_step([spoilt])
    assert train_step.norms.values["grad_norm"] is norms["grad_norm"]
    train_step([spoilt])
    assert train_step.norms.values["grad_norm"].isnan()
    assert train_step.norms.values["update_norm"] == 0


def test_the_scale_of_fp16_is_no_part_of_the_norm() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.grad = 1024 * torch.tensor([[3.0, 4.0]])
    norms = StepNorms(layer, every_steps=1)
    with norms.measured(1, torch.amp.GradScaler("cpu", init_scale=1024.0)), torch.no_grad():
        layer.weight += torch.tensor([[6.0, 8.0]])
    assert {name: float(value) for name, value in norms.values.items()} == {"grad_norm": 5, "update_norm": 10}


def test_any_optimizer_can_train(small_recipe: Path) -> None:
    """One without found_inf is not stepped where the loss is not finite; its state is there before."""

    def adamw(optim: Optim, model: nn.Module) -> torch.optim.Optimizer:
        group = {"name": "all", "base_lr": 1e-3, "params": list(model.parameters())}
        return torch.optim.AdamW([group])

    AcceleratorState._reset_state()
    PartialState._reset_state()
    recipe = load_recipe(small_recipe)
    accelerator = build_accelerator(recipe.run)
    train_step = TrainStep(recipe, accelerator, build_model(recipe), optimizer=adamw)
    assert all(float(state["step"]) == 0 for state in train_step.optimizer.state.values())
    source, _ = open_sources(recipe)
    batch = next(iter(build_loader(recipe, source, accelerator)))

    def weights() -> list[Tensor]:
        return [p.detach().clone() for p in train_step.model.parameters()]

    def moved(before: list[Tensor]) -> bool:
        return not all(map(torch.equal, before, weights()))

    before = weights()
    train_step([batch], lr_scale=0.0)
    assert not moved(before)
    train_step([batch])
    assert moved(before)
    before = weights()
    train_step([batch._replace(views=tuple(view * math.nan for view in batch.views))])
    assert not moved(before)
    assert train_step.nonfinite.total == 1
    assert train_step.steps == 3


@pytest.mark.parametrize("kind", [torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9, nesterov=True)])
def test_a_state_that_is_made_before_changes_nothing(kind: Callable[..., torch.optim.Optimizer]) -> None:
    """A run whose optimizer made its state at its first step has the same weights."""
    results = []
    for is_made_before in (True, False):
        weight = nn.Parameter(torch.linspace(-1, 1, 5))
        optimizer = kind([weight], lr=0.1, weight_decay=0.01)
        if is_made_before:
            make_state(optimizer)
            assert optimizer.state[weight]
            assert optimizer.param_groups[0]["lr"] == 0.1
        for _ in range(3):
            weight.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(weight.detach())
    assert torch.equal(*results)
