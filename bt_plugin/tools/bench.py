"""How fast a recipe trains on this machine, and what holds it back. Nothing of a run is written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from bt_plugin.config.recipe import Recipe
from bt_plugin.data.from_recipe import backend_of, build_loader, open_sources
from bt_plugin.evaluate.online_probe import probed_classes
from bt_plugin.models.from_recipe import build_model
from bt_plugin.models.trial_forward import check_model
from bt_plugin.runs.provenance import hardware, versions
from bt_plugin.runtime import collectives
from bt_plugin.runtime.accelerator import build_accelerator, check_compiler
from bt_plugin.tools.bench_advice import Throughput, advice
from bt_plugin.training.step import TrainStep
from dali_pipelines.loaders import Batch, TwoViewLoader
from dali_pipelines.views.params import Preset

_ROUNDS = 3
# Of the measured time, to each of loader, step, and both; the rest goes to the limits.
_SHARE = 0.28
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def bench(recipe: Recipe, seconds: float = 150.0) -> dict[str, Any]:
    """Measures loader, step and training by turns. To be called on every rank.

    Args:
        recipe: As for pretrain.
        seconds: That the measurements take, about, after the first steps.

    Returns:
        The rates, raw and as medians, what holds training back, and what to change.

    Raises:
        RecipeError: For whatever cannot be run as the recipe says.
    """
    accelerator = build_accelerator(recipe.run)
    check_compiler(recipe.run)
    check_model(recipe)
    source, _ = open_sources(recipe)
    recipe.steps_per_epoch(len(source))
    loader = build_loader(recipe, source, accelerator)
    classes = probed_classes(recipe, source)
    train_step = TrainStep(recipe, accelerator, build_model(recipe), num_classes=classes)
    found, raw = _measured(recipe, accelerator, loader, train_step, seconds)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return {
        **asdict(found),
        "raw": raw,
        "of_matmul": found.of_matmul(accelerator.num_processes),
        "advice": advice(found, recipe, device=accelerator.device.type, world_size=accelerator.num_processes),
        "world_size": accelerator.num_processes,
        "device": accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
        "recipe": recipe.resolved_dict(),
        "hardware": hardware(),
        "versions": versions(),
    }


def _measured(
    recipe: Recipe, accelerator: Accelerator, loader: TwoViewLoader, train_step: TrainStep, seconds: float
) -> tuple[Throughput, dict[str, list[float]]]:
    """What was found, and each phase's rates, round by round."""
    stopwatch = Stopwatch(accelerator.device, recipe.optim.global_batch_size, loader.backend.prefetch + 1)
    steps = _steps(loader, recipe.optim.accumulation_steps)
    fixed = [_moved(batch, accelerator.device) for batch in next(steps)]
    # At a rate of 0 the work is the same, and the weights stay as they are, however often a batch is seen.
    step = partial(train_step, lr_scale=0.0)
    step(fixed)
    phase_s = seconds * _SHARE / _ROUNDS
    phases: dict[str, Callable[[], object]] = {
        "loader": lambda: next(steps),
        "step": lambda: step(fixed),
        "both": lambda: step(stopwatch.waiting(lambda: next(steps))),
    }
    raw: dict[str, list[float]] = {name: [] for name in phases}
    waits: list[float] = []
    for _ in range(_ROUNDS):
        for name, action in phases.items():
            raw[name].append(stopwatch.rate(action, phase_s))
        waits.append(stopwatch.share_within)
    with FlopCounterMode(display=False) as counter:
        step(fixed)
    found = Throughput(
        **{name: statistics.median(values) for name, values in raw.items()},
        decode=stopwatch.rate(_tiny(loader, recipe, accelerator.device), phase_s / 2),
        data_wait=statistics.median(waits),
        optimizer_share=optimizer_share(train_step.optimizer, phases["step"], stopwatch=stopwatch, seconds=phase_s / 2),
        flops_per_image=counter.get_total_flops() / loader.shards.batch_size_per_rank,
        matmul_flops_per_s=_matmul_flops_per_s(accelerator.device, _DTYPES[accelerator.mixed_precision]),
        matmul_bf16_flops_per_s=_matmul_flops_per_s(accelerator.device, torch.bfloat16),
        transfer=_transfer(loader, accelerator.device),
    )
    return found, raw


class Stopwatch:
    """Images a second over all ranks, and the share of the time between `enter` and `leave`."""

    def __init__(self, device: torch.device, images: int, ahead: int = 1) -> None:
        self._device = device
        self._ahead = ahead
        self._images = images
        self._within_s = 0.0
        self.share_within = 0.0

    def rate(self, action: Callable[[], object], seconds: float) -> float:
        """Of an action that every rank does, as often as rank 0 finds that the seconds allow."""
        # What was made ahead while another phase ran, and would count as speed.
        for _ in range(self._ahead):
            action()
        one_s = self._timed(action, 1)
        times = collectives.from_main(lambda: max(2, round(seconds / one_s)))
        self._within_s = 0.0
        elapsed_s = self._timed(action, times)
        self.share_within = self._within_s / elapsed_s
        return times * self._images / elapsed_s

    def enter(self) -> None:
        self._within_s -= time.perf_counter()

    def leave(self) -> None:
        self._within_s += time.perf_counter()

    def waiting(self, action: Callable[[], Any]) -> Any:
        self.enter()
        result = action()
        self.leave()
        return result

    def finish(self) -> None:
        """Waits until the device has done all that it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _timed(self, action: Callable[[], object], times: int) -> float:
        self.finish()
        begun_s = time.perf_counter()
        for _ in range(times):
            action()
        self.finish()
        return time.perf_counter() - begun_s


def optimizer_share(
    optimizer: torch.optim.Optimizer, step: Callable[[], object], *, stopwatch: Stopwatch, seconds: float
) -> float:
    """Of the time of steps that take about so many seconds, the optimizer's part, 0 to 1."""

    def before(*_: Any) -> None:
        stopwatch.finish()
        stopwatch.enter()

    def after(*_: Any) -> None:
        stopwatch.finish()
        stopwatch.leave()

    hooks = optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)
    stopwatch.rate(step, seconds)
    for hook in hooks:
        hook.remove()
    return stopwatch.share_within


def _steps(loader: TwoViewLoader, accumulation_steps: int) -> Iterator[Sequence[Batch]]:
    while True:
        yield from zip(*[iter(loader)] * accumulation_steps)


def _moved(batch: Batch, device: torch.device) -> Batch:
    return batch._replace(views=tuple(view.to(device) for view in batch.views))


def _tiny(loader: TwoViewLoader, recipe: Recipe, device: torch.device) -> Callable[[], object]:
    """One view of 8 px without colour steps: what is left is reading and decoding."""
    view = replace(loader.views[0], size_px=8, jitter_p=0.0, blur_p=0.0, gray_p=0.0)
    shards = loader.shards
    tiny = TwoViewLoader(
        loader.source,
        shards.batch_size_per_rank,
        Preset((view,)),
        backend=replace(backend_of(recipe.data, device), prefetch=recipe.data.prefetch),
        rank=shards.rank,
        world_size=shards.world_size,
        max_bad_files=recipe.data.max_bad_files,
    )
    batches = _steps(tiny, 1)
    return lambda: next(batches)


def _transfer(loader: TwoViewLoader, device: torch.device) -> float | None:
    """Images a second over all ranks, by the rate of one large copy from pinned memory."""
    if device.type != "cuda":
        return None
    if loader.backend.device == "gpu":
        source = loader.source
        size = statistics.mean(source.read(index).nbytes for index in range(min(len(source), 64)))
    else:
        size = sum(4 * view.channels * view.size_px**2 for view in loader.views)
    there = torch.empty(2**26, dtype=torch.uint8, device=device)
    here = torch.empty_like(there, device="cpu", pin_memory=True)
    copies_per_s = Stopwatch(device, 1).rate(lambda: there.copy_(here, non_blocking=True), 0.3)
    return copies_per_s * len(here) / size * loader.shards.world_size


def _matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """The best of a few large products."""
    size = 4096 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    stopwatch = Stopwatch(device, 1)
    return max(2 * size**3 * stopwatch.rate(lambda: a @ b, 0.3) for _ in range(5))
