"""AdamW and SGD move the weights as torch's own do: through skipped steps, accumulation, resume, and on two ranks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn

from bt_plugin import BarlowTwins, build_projector
from bt_plugin.checkpoints.state import TrainingState, with_weights_of
from bt_plugin.config.recipe import Recipe
from bt_plugin.optim.adamw import build_adamw
from bt_plugin.optim.lars import LARS
from bt_plugin.optim.tensors import clip_
from bt_plugin.runtime.accelerator import _shard_on_cpu, build_accelerator
from bt_plugin.training.step import TrainStep
from dali_pipelines.loaders import Batch
from tests.ranks import run_ranks
from tests.saved import metadata_of, write

STEPS, NONFINITE, SAVED = 6, 2, 4


class Backbone(nn.Module):
    """The parts of a vision transformer that matter here, under timm's names."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 8, 1, 1))
        self.patch_embed = nn.Conv2d(3, 8, 4, stride=4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(2))
        # Its bias would have no gradient, because BatchNorm subtracts what it adds.
        self.norm = nn.LayerNorm(8, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images) + self.pos_embed
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x.mean((2, 3)))  # type: ignore[no-any-return]


def model() -> BarlowTwins:
    torch.manual_seed(0)
    return BarlowTwins(Backbone(), build_projector(8, [16, 16]))


def step_of(optim: dict[str, Any], run_dir: Path) -> tuple[TrainStep, TrainingState]:
    """A step of a new run, and its state."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    recipe = Recipe.model_validate(
        {
            "data": {"train": "images"},
            "loss": {"lambda_param": 0.05},
            "optim": {"global_batch_size": 16, "accumulation_steps": 2, **optim},
            "run": {"output_dir": str(run_dir), "device": "cpu"},
        }
    )
    accelerator = build_accelerator(recipe.run)
    if os.environ.get("FSDP_VERSION"):
        _shard_on_cpu(accelerator)
    step = TrainStep(recipe, accelerator, model())
    return step, TrainingState(accelerator, step.model, step.optimizer, timeout=timedelta(seconds=60))


def batches(number: int, rank: int, world_size: int) -> list[Batch]:
    """A rank's two micro-batches of a step."""
    generator = torch.Generator().manual_seed(number)
    micro_batches = torch.randn(2, 2, 8, 3, 8, 8, generator=generator)[:, :, rank::world_size]
    if number == NONFINITE:
        micro_batches[1, 0, -1] = math.nan
    return [Batch((views[0], views[1]), torch.full((len(views[0]),), -1), []) for views in micro_batches]


class Twin:
    """torch's own optimizer on copies of the weights, which takes the same gradients."""

    def __init__(self, step: TrainStep, optim: dict[str, Any]) -> None:
        self.theirs = dict(step._plain.named_parameters())
        self.weights = {name: nn.Parameter(p.detach().clone()) for name, p in self.theirs.items()}
        flat = [p for name, p in self.weights.items() if p.ndim == 1 or name == "backbone.pos_embed"]
        groups = [
            {"params": [p for p in self.weights.values() if not any(p is one for one in flat)], "weight_decay": 0.1},
            {"params": flat, "weight_decay": 0.0},
        ]
        if optim["name"] == "adamw":
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
        else:
            self.optimizer = torch.optim.SGD(groups, momentum=0.9, fused=True)
        step.optimizer.register_step_pre_hook(self.keep_gradients)

    def keep_gradients(self, *_: Any) -> None:
        for name, p in self.weights.items():
            gradient = self.theirs[name].grad
            assert gradient is not None
            p.grad = gradient.clone()

    def step(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()


@contextmanager
def launched(rank: int, world_size: int, is_sharded: bool) -> Iterator[None]:
    """The environment of a rank that a launcher started."""
    before = dict(os.environ)
    if world_size > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "OMP_NUM_THREADS": "1"}
    os.environ |= {"FSDP_VERSION": "2"} if is_sharded else {}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def trained(rank: int, world_size: int, optim: dict[str, Any], folder: str, is_sharded: bool) -> dict[str, Any]:
    """The weights after a run. A run that resumes in its middle ends with the same bits."""
    with launched(rank, world_size, is_sharded):
        step, state = step_of(optim, Path(folder))
        twin = None if is_sharded or "layer_decay" in optim else Twin(step, optim)
        for number in range(STEPS):
            lr_scale = (number + 1) / STEPS
            step(batches(number, rank, world_size), lr_scale)
            if twin and number != NONFINITE:
                twin.step(optim["lr"] * 16 / 256 * lr_scale)
            for name, p in twin.theirs.items() if twin else ():
                assert torch.equal(p, twin.weights[name]), (number, name)  # type: ignore[union-attr]
            if number + 1 == SAVED:
                write(state, Path(folder), metadata_of(SAVED, world_size))
        assert step.nonfinite.total == 1
        resumed, state = step_of(optim, Path(folder))
        state.restore(Path(folder) / f"checkpoint-{SAVED}", with_random_states=True)
        for number in range(SAVED, STEPS):
            resumed(batches(number, rank, world_size), (number + 1) / STEPS)
        weights, of_resumed = (with_weights_of(each.model, model()).state_dict() for each in (step, resumed))
        assert all(torch.equal(weights[name], of_resumed[name]) for name in weights)
    return weights


ADAMW = {"name": "adamw", "lr": 0.1, "weight_decay": 0.1}
SGD = {"name": "sgd", "lr": 1.0, "weight_decay": 0.1}


@pytest.mark.parametrize("optim", [ADAMW, SGD], ids=lambda optim: optim["name"])
@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_steps_are_torch_s_own_bit_for_bit(optim: dict[str, Any], world_size: int, tmp_path: Path) -> None:
    if world_size == 1:
        weights = trained(0, 1, optim, str(tmp_path), False)
        assert not any(torch.equal(weights[name], p) for name, p in model().named_parameters() if "weight" in name)
        return
    first, second = run_ranks(2, trained, 2, optim, str(tmp_path), False)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.distributed
@pytest.mark.parametrize("optim", [ADAMW, SGD], ids=lambda optim: optim["name"])
def test_shards_change_nothing(optim: dict[str, Any], tmp_path: Path) -> None:
    """Not with layer decay, nor with a gradient that is clipped by the norm of all shards."""
    optim = optim | {"layer_decay": 0.5, "patch_embed_lr_scale": 0.5, "clip_grad_norm": 0.1}
    whole, sharded = (run_ranks(2, trained, 2, optim, str(tmp_path), flag)[0] for flag in (False, True))
    start = dict(model().named_parameters())
    for name in start:
        torch.testing.assert_close(sharded[name], whole[name], rtol=1e-3, atol=1e-4)
        assert (whole[name] - start[name]).abs().max() > 1e-4, name


def test_clipping_is_torch_s_own() -> None:
    for most in (0.1, 1e3):
        ours = [p for p in model().parameters()]
        theirs = [p for p in model().parameters()]
        for p, other in zip(ours, theirs):
            p.grad = torch.randn_like(p)
            other.grad = p.grad.clone()
        norm = clip_([p.grad for p in ours if p.grad is not None], most)
        assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(theirs, most))
        assert all(torch.equal(p.grad, other.grad) for p, other in zip(ours, theirs))  # type: ignore[arg-type]


@pytest.mark.parametrize("optim", [ADAMW, SGD], ids=lambda optim: optim["name"])
def test_layouts_of_gradients_and_loaded_states_do_not_matter(optim: dict[str, Any]) -> None:
    """torch's fused kernels would pair numbers by address."""
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(torch.linspace(-1, 1, 2 * 3 * 4 * 5).view(2, 3, 4, 5))
        group = {"params": [weight], "lr": 0.1}
        optimizer = built(optim, group)
        for number in range(3):
            gradient = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(number))
            weight.grad = gradient.contiguous(memory_format=layout)
            optimizer.step()
            states = optimizer.state_dict()
            for state in states["state"].values():
                state.update({k: v.contiguous(memory_format=layout) for k, v in state.items() if v.ndim == 4})
            optimizer.load_state_dict(states)
        results.append(weight.detach())
    assert torch.equal(*results)


def built(optim: dict[str, Any], group: dict[str, Any]) -> torch.optim.Optimizer:
    """The recipe's optimizer with one group."""
    if optim["name"] == "adamw":
        return build_adamw([group], betas=(0.9, 0.95))
    return LARS([{**group, "adapt": False}], lr=0.0)


@pytest.mark.parametrize("optim", [ADAMW, SGD], ids=lambda optim: optim["name"])
def test_an_overflow_of_fp16_is_seen_and_skipped(optim: dict[str, Any]) -> None:
    """A fused kernel skips it too, but then Accelerate reports it as a step that was made."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = AcceleratedOptimizer(built(optim, {"params": [weight], "lr": 0.1}), scaler=torch.amp.GradScaler("cpu"))
    for factor, is_skipped in ((math.inf, True), (1.0, False)):
        optimizer.scaler.scale(factor * weight.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert optimizer.step_was_skipped == is_skipped
        assert torch.equal(weight, torch.ones(3)) == is_skipped
