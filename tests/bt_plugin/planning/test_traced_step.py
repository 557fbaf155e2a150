"""What a step on fake tensors says is what a real step needs."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from bt_plugin import BarlowTwinsLoss, build_backbone
from bt_plugin.errors import LaunchError, RecipeError
from bt_plugin.loss.cost_model import loss_cost
from bt_plugin.planning import traced_step
from bt_plugin.planning.fake_model import GpuAutocast
from bt_plugin.planning.memory import step_memory
from bt_plugin.planning.step_meter import StepMeter
from bt_plugin.planning.traced_step import TracedStep, loss_bytes, trace_step
from tests.bt_plugin.planning.steps import benchmark, step_recipe
from tests.conftest import REPOSITORY

VIT = {"model__backbone": "timm/vit_small_patch16_224", "views__both__size_px": 224, "optim__global_batch_size": 4}
RESNET18 = {"model__backbone": "torchvision/resnet18"}
RESNET50 = {
    "model__backbone": "torchvision/resnet50",
}
WAYS = [(checkpointing, count) for checkpointing in ("none", "blocks") for count in (1, 2)]


def micro_batch(recipe: Any) -> int:
    return int(recipe.optim.global_batch_size // recipe.optim.accumulation_steps)


def beyond_kept(traced: TracedStep) -> int:
    return sum(traced.peak_bytes.values()) - sum(traced.kept_bytes.values())


def assert_as_measured(*, attention: bool = False, with_peak: bool = False, **changes: Any) -> None:
    recipe = step_recipe(**changes)
    traced = trace_step(recipe, micro_batch_size=micro_batch(recipe))
    real = benchmark("measured_step").measured_step(recipe, with_peak=with_peak)
    assert sum(traced.activation_bytes.values()) == pytest.approx(real.saved_bytes, rel=0.05)
    # The CPU's convolutions copy weights while they run, which no tensor shows.
    assert not with_peak or beyond_kept(traced) == pytest.approx(real.peak_bytes, rel=0.15)
    flops = sum(operation.flops for operation in traced.operations)
    # torch counts attention on GPUs only.
    assert flops > real.flops if attention else flops == real.flops


def test_a_small_resnet() -> None:
    assert_as_measured()


def test_a_small_vit() -> None:
    changes = {"model__activation_checkpointing": "blocks", "optim__accumulation_steps": 2}
    assert_as_measured(attention=True, model__backbone="timm/test_vit", views__both__size_px=160, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(("checkpointing", "count"), WAYS)
@pytest.mark.parametrize(("network", "attention"), [(RESNET18, False), (RESNET50, False), (VIT, True)])
def test_larger_networks(network: dict[str, Any], attention: bool, checkpointing: str, count: int) -> None:
    changes = {"model__activation_checkpointing": checkpointing, "optim__accumulation_steps": count}
    assert_as_measured(attention=attention, with_peak=True, **network, **changes)


def test_bf16() -> None:
    recipe = step_recipe(run__mixed_precision="bf16")
    traced = trace_step(recipe, micro_batch_size=8)
    # A process has one state of Accelerate, and another test may have left one with float32.
    AcceleratorState._reset_state(reset_partial_state=True)
    real = benchmark("measured_step").measured_step(recipe, with_peak=False)
    saved = sum(traced.activation_bytes.values())
    # Copies of the weights in bf16 are kept for the backward pass, too.
    copies = 2 * traced.weights
    assert saved + copies == pytest.approx(real.saved_bytes, rel=0.05)
    float32 = trace_step(step_recipe(), micro_batch_size=8)
    assert saved < 0.6 * sum(float32.activation_bytes.values())
    fp16 = trace_step(step_recipe(run__device="gpu", run__mixed_precision="fp16"), micro_batch_size=8)
    assert fp16.activation_bytes == traced.activation_bytes


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_on_a_gpu(precision: str) -> None:
    from bt_plugin.models.from_recipe import build_model
    from bt_plugin.runtime.accelerator import build_accelerator, process_settings_restored
    from bt_plugin.training.step import TrainStep

    changes = {"views__both__size_px": 224, "optim__global_batch_size": 64, "optim__name": "lars"}
    recipe = step_recipe(run__device="gpu", run__mixed_precision=precision, **changes)
    planned = sum(trace_step(recipe, micro_batch_size=64).peak_bytes.values())
    with process_settings_restored():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train_step = TrainStep(recipe, build_accelerator(recipe.run), build_model(recipe))
        batches = [
            batch._replace(views=tuple(view.cuda() for view in batch.views))
            for batch in benchmark("measured_step").batches_of(recipe)
        ]
        for _ in range(3):
            train_step(batches)
        measured = torch.cuda.max_memory_allocated() - before
    assert planned == pytest.approx(measured, rel=0.1)


def test_more_micro_batches_than_are_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = step_recipe(optim__accumulation_steps=5, optim__global_batch_size=20, model__projector=[64, 4096])
    some = trace_step(recipe, micro_batch_size=4)
    monkeypatch.setattr(traced_step, "MOST_MICRO_BATCHES", 5)
    every = trace_step(recipe, micro_batch_size=4)
    assert (some.micro_batches, every.micro_batches) == (2, 5)
    planned = step_memory(recipe, some).allocated.low
    assert planned == pytest.approx(sum(every.peak_bytes.values()) / 2**30, rel=0.01)


@pytest.mark.parametrize(("form", "n"), [("cross", 64), ("gram", 64), ("gram", 256)])
def test_memory_of_the_loss_is_that_of_its_record(form: str, n: int) -> None:
    record = json.loads((REPOSITORY / "benchmarks" / "records" / "2026-11-22_loss.json").read_text())
    (measured,) = [row[form]["peak_mib"] for row in record["results"] if row["size"] == f"{n}x8192"]
    traced = loss_bytes(BarlowTwinsLoss(form=form), n=n, d=8192)  # type: ignore[arg-type]
    # The record has the process's memory, in which the products of the CPU have buffers of their own.
    assert traced / 2**20 == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("form", ["cross", "gram"])
def test_collectives_of_many_ranks(form: str) -> None:
    recipe = step_recipe(loss__form=form, optim__global_batch_size=128 * 8)
    traced = trace_step(recipe, micro_batch_size=8, world_size=128)
    gradients = sum(each.size_bytes for each in traced.collectives if not each.waits)
    assert gradients == 4 * traced.weights
    # Every BatchNorm gathers mean and variance, and reduces two sums of its backward pass, for each view.
    channels = 64 + sum(layer.num_features for layer in norms_of(recipe.model.backbone))
    gathered = sum(each.size_bytes for each in traced.collectives if each.waits and each.name == "all_gather")
    reduced = sum(each.size_bytes for each in traced.collectives if each.waits and each.name == "all_reduce")
    of_norms = 2 * 2 * 4 * channels
    sent = 127 * (gathered - of_norms) + 2 * 127 / 128 * (reduced - of_norms)
    assert sent == pytest.approx(loss_cost(form, n=8, d=64, world_size=128).bytes_sent)  # type: ignore[arg-type]


def norms_of(backbone: str) -> list[nn.BatchNorm2d]:
    return [module for module in build_backbone(backbone)[0].modules() if isinstance(module, nn.BatchNorm2d)]


def test_shards() -> None:
    recipe = step_recipe(model__backbone="timm/test_vit", views__both__size_px=160, optim__global_batch_size=32)
    whole = trace_step(recipe, micro_batch_size=8)
    shards = trace_step(recipe, micro_batch_size=8, world_size=4, fsdp=True)
    assert shards.weights == whole.weights
    for part in ("weights", "optimizer"):
        # Every tensor is rounded up to a block.
        assert shards.kept_bytes[part] == pytest.approx(whole.kept_bytes[part] / 4, rel=0.15)
    scattered = sum(each.size_bytes for each in shards.collectives if each.name == "reduce_scatter")
    # Shards of one tensor have the same size on all ranks.
    assert 4 * whole.weights <= scattered < 1.1 * 4 * whole.weights
    assert shards.kept_bytes.get("gathered_weights", 0) == 0
    # The backward pass also needs the gathered weights.
    activations = whole.activation_bytes["backbone"]
    assert activations <= shards.activation_bytes["backbone"] < activations + 4 * whole.weights


@pytest.mark.filterwarnings("error:FSDP2-wrapped module")
def test_shapes_of_whole_tensors_are_no_memory() -> None:
    # DTensor asks for the shapes of an operation once in a process. No other test has this width.
    recipe = step_recipe(model__projector=[72, 64], optim__name="lars", optim__global_batch_size=32)
    first, second = (trace_step(recipe, micro_batch_size=8, world_size=4, fsdp=True) for _ in range(2))
    assert first.operations == second.operations
    assert first.peak_bytes == second.peak_bytes


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_no_operation_needs_real_tensors(monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    from torch._subclasses import fake_tensor

    ran = []
    real = fake_tensor.run_fallback_kernel

    def noted(mode: Any, function: Any, *arguments: Any) -> Any:
        ran.append(function)
        return real(mode, function, *arguments)

    monkeypatch.setattr(fake_tensor, "run_fallback_kernel", noted)
    trace_step(step_recipe(optim__name=optimizer), micro_batch_size=8)
    assert not ran


def test_the_process_is_as_before() -> None:
    environment = dict(os.environ)
    known = dict(PartialState._shared_state)
    trace_step(step_recipe(optim__global_batch_size=16), micro_batch_size=8, world_size=2)
    assert dict(os.environ) == environment
    assert PartialState._shared_state == known
    assert not torch.distributed.is_initialized()
    torch.nn.Linear(2, 2).to(torch.float64)


def test_no_rank_of_a_run_is_planned_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(LaunchError, match="belongs to a run"):
            trace_step(step_recipe(), micro_batch_size=8)
    finally:
        torch.distributed.destroy_process_group()


class ReadsValues(nn.Module):
    """A network whose work depends on the values of its images."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = images.mean(dim=(2, 3)) @ self.weight
        return features if images.mean().item() > 0 else -features


def test_a_network_that_reads_values() -> None:
    from bt_plugin import BarlowTwins, build_projector

    def build() -> BarlowTwins:
        return BarlowTwins(ReadsValues(), build_projector(4, [64, 64]))

    with pytest.raises(RecipeError, match=r"model.backbone: timm/test_resnet cannot be planned.*bt-plugin bench"):
        trace_step(step_recipe(), micro_batch_size=8, build=build)
    recipe = step_recipe(model__backbone=f"{__name__}:ReadsValues")
    with pytest.raises(RecipeError, match=r"ReadsValues cannot be planned.*bt-plugin bench"):
        trace_step(recipe, micro_batch_size=8)


def test_images_of_a_size_that_the_network_does_not_take() -> None:
    recipe = step_recipe(model__backbone="timm/test_vit", views__both__size_px=100)
    with pytest.raises(RecipeError, match=r"cannot embed views of 100 px .* use the size that it is made for"):
        trace_step(recipe, micro_batch_size=8)


def test_grouped_convolutions() -> None:
    images = torch.randn(2, 8, 6, 6, requires_grad=True)
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    with StepMeter() as meter:
        layer(images).sum().backward()
    forward = 2 * 2 * 8 * 36 * 9
    assert meter.flops == 3 * forward


def test_a_peak_after_another() -> None:
    with StepMeter() as meter:
        torch.zeros(1000) + 1
        first = sum(meter.peak_bytes.values())
        meter.begin()
        kept = torch.zeros(10)
    assert first >= 8000
    assert sum(meter.peak_bytes.values()) == sum(meter.now_bytes.values()) == 512
    assert kept.sum() == 0


def test_autocast_of_a_gpu() -> None:
    recipe = step_recipe(model__backbone="timm/test_convnext", run__mixed_precision="bf16")
    on_gpu, on_cpu = (trace_step(recipe, micro_batch_size=8, for_gpu=for_gpu) for for_gpu in (True, False))
    assert on_gpu.activation_bytes["backbone"] > 1.05 * on_cpu.activation_bytes["backbone"]
    images = torch.randn(2, 4, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.LayerNorm(4)(images).dtype == torch.bfloat16
        with GpuAutocast():
            assert nn.LayerNorm(4)(images).dtype == nn.GroupNorm(2, 4)(images).dtype == torch.float32
            assert nn.Linear(4, 4)(images).dtype == torch.bfloat16


def test_sharded_weights_compute_in_bf16() -> None:
    recipe = step_recipe(run__mixed_precision="bf16")
    for fsdp in (False, True):
        traced = trace_step(recipe, micro_batch_size=4, world_size=2, fsdp=fsdp)
        low = sum(operation.flops for operation in traced.operations if operation.kind == "low")
        # The loss computes in float32.
        assert low > 0.9 * sum(operation.flops for operation in traced.operations), f"{fsdp=}"
