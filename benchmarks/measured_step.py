"""Measure what one real step on the CPU keeps, allocates and computes, without the package's own meter."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bt_plugin.config.recipe import Recipe
from bt_plugin.models.from_recipe import build_model
from bt_plugin.runtime.accelerator import build_accelerator, process_settings_restored
from bt_plugin.training.step import TrainStep
from dali_pipelines.loaders import Batch


class MeasuredStep(NamedTuple):
    """What a real step needs.

    Args:
        saved_bytes: Bytes of storages that autograd keeps of one micro-batch, besides weights and views.
        peak_bytes: Most bytes that torch's CPU allocator handed out during the step, beyond those before it.
        flops: Floating-point operations by torch's counter, which does not count attention on a CPU.
    """

    saved_bytes: int
    peak_bytes: int
    flops: int


def measured_step(recipe: Recipe, *, with_peak: bool = True) -> MeasuredStep:
    """Run three steps of a recipe on the CPU, and measure each of them in another way.

    Args:
        recipe: Recipe with run.device=cpu and run.memory_format=channels_last, as a GPU has it.
        with_peak: Whether the peak is measured, in a third step. Otherwise it is 0.
    """
    with process_settings_restored():
        train_step = TrainStep(recipe, build_accelerator(recipe.run), build_model(recipe))
        batches = batches_of(recipe)
        saved = _saved_bytes(train_step, batches)
        with FlopCounterMode(display=False) as counter:
            train_step(batches)
        peak = 0
        if with_peak:
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                train_step(batches)
            peak = _peak_bytes(profiler)
    return MeasuredStep(saved, peak, counter.get_total_flops())


def batches_of(recipe: Recipe) -> list[Batch]:
    """Return random views of one step of one rank, by micro-batch."""
    count = recipe.optim.accumulation_steps
    n = recipe.optim.global_batch_size // count
    return [
        Batch(
            views=tuple(
                torch.randn(n, view.channels, view.size_px, view.size_px).to(memory_format=torch.channels_last)
                for view in recipe.preset.views
            ),
            targets=torch.zeros(n, dtype=torch.int64),
            filenames=[""] * n,
        )
        for _ in range(count)
    ]


def _saved_bytes(train_step: TrainStep, batches: list[Batch]) -> int:
    known = {_address(tensor) for tensor in (*train_step._plain.parameters(), *train_step._plain.buffers())}
    known |= {_address(view) for batch in batches for view in batch.views}
    saved: dict[int, int] = {}
    totals = [0]

    def pack(tensor: Tensor) -> Tensor:
        if _address(tensor) not in known:
            saved[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    def embedded(*_: object) -> None:
        totals.append(sum(saved.values()))
        saved.clear()

    handle = train_step._plain.projector.register_forward_hook(embedded)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        train_step(batches)
    handle.remove()
    return max(totals)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _peak_bytes(profiler: profile) -> int:
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = sorted((event for event in results.events() if event.name() == "[memory]"), key=lambda e: e.start_ns())
    now = most = 0
    for event in events:
        now += event.nbytes()
        most = max(most, now)
    return most
