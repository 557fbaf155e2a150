"""Measure how fast a recipe trains on this machine, and find its bottleneck. Write no files of a run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from bt_plugin.config.recipe import Recipe
from bt_plugin.data.from_recipe import backend_of, build_loader, open_sources
from bt_plugin.evaluation.online_probe import probed_classes
from bt_plugin.models.from_recipe import build_model
from bt_plugin.models.trial_forward import check_model
from bt_plugin.runs.provenance import hardware, versions
from bt_plugin.runtime import collectives
from bt_plugin.runtime.accelerator import build_accelerator, check_compiler
from bt_plugin.tools.bench_advice import Throughput, advice
from bt_plugin.training.step import TrainStep
from dali_pipelines.backend import Backend, BackendName
from dali_pipelines.loaders import Batch, TwoViewLoader
from dali_pipelines.views.params import Preset

_ROUNDS = 3
# Share of the measured time for each of loader, step and both. The limits and the other backend get the rest.
_SHARE = 0.26
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def bench(recipe: Recipe, seconds: float = 150.0) -> dict[str, Any]:
    """Measure the loader, the step and training, alternating between them. Call this on every rank.

    Args:
        recipe: The recipe of a pretraining.
        seconds: Approximate duration of the measurements after the first steps, in seconds.

    Returns:
        The rates, raw and as medians, the bottleneck, and the keys to change.

    Raises:
        RecipeError: If the recipe cannot run on this machine.
    """
    accelerator = build_accelerator(recipe.run)
    check_compiler(recipe.run)
    check_model(recipe)
    source, _ = open_sources(recipe)
    recipe.steps_per_epoch(source.epoch_length)
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
    """Return the measurements, and the rates of each phase in each round."""
    stopwatch = Stopwatch(accelerator.device, recipe.optim.global_batch_size, loader.backend.prefetch + 1)
    steps = _steps(loader, recipe.optim.accumulation_steps)
    fixed = [_moved(batch, accelerator.device) for batch in next(steps)]
    # A learning rate of 0 keeps the weights at the same work, so that a repeated batch cannot diverge.
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
        backend=loader.backend.name,
        other_loader=_other_rate(loader, recipe, stopwatch, accelerator.device, phase_s),
    )
    return found, raw


class Stopwatch:
    """A stopwatch for images per second over all ranks, and for the share of time between `enter` and `leave`.

    Args:
        device: Device that does the work.
        images: Images that one action processes, over all ranks.
        ahead: Actions whose results may be ready in advance. They are not timed.
    """

    def __init__(self, device: torch.device, images: int, ahead: int = 1) -> None:
        self._device = device
        self._ahead = ahead
        self._images = images
        self._within_s = 0.0
        self.share_within = 0.0

    def rate(self, action: Callable[[], object], seconds: float) -> float:
        """Return the images per second of an action that every rank repeats.

        Args:
            action: Work of one repetition.
            seconds: Approximate duration in seconds. Rank 0 chooses the number of repetitions from it.
        """
        # Batches that were prefetched during another phase would make the loader look faster.
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
        """Wait until the device has finished its work."""
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
    """Return the optimizer's share of a step's time, 0 to 1.

    Args:
        optimizer: Optimizer of the step.
        step: Function that runs one step.
        stopwatch: Stopwatch that times the steps.
        seconds: Approximate duration of the measurement in seconds.
    """

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
    """Return an action that loads batches of one 8 px view without color steps: only reading and decoding remain."""
    view = replace(loader.views[0], size_px=8, jitter_p=0.0, blur_p=0.0, gray_p=0.0)
    return _batches_like(loader, recipe, _backend_like(loader, recipe, device), Preset((view,)))


def _backend_like(loader: TwoViewLoader, recipe: Recipe, device: torch.device) -> Backend:
    """Return the backend of a loader, as its arguments: what is measured uses the same decoder."""
    tuning = loader.backend.tuning if loader.backend.name == "dali" else None
    return replace(backend_of(recipe.data, device), prefetch=recipe.data.prefetch, tuning=tuning)


def _other_rate(
    loader: TwoViewLoader, recipe: Recipe, stopwatch: Stopwatch, device: torch.device, seconds: float
) -> float | None:
    """Return the rate of the same loader with the other backend, None if that is DALI and is not installed."""
    name: BackendName = "dali" if loader.backend.name == "native" else "native"
    backend = replace(_backend_like(loader, recipe, device), name=name, tuning=None)
    with suppress(ImportError):
        return stopwatch.rate(_batches_like(loader, recipe, backend, recipe.preset), seconds)
    return None


def _batches_like(loader: TwoViewLoader, recipe: Recipe, backend: Backend, views: Preset) -> Callable[[], object]:
    """Return an action that loads a batch of the same images with other views or by another backend."""
    shards = loader.shards
    batches = _steps(
        TwoViewLoader(
            loader.source,
            shards.batch_size_per_rank,
            views,
            backend=backend,
            rank=shards.rank,
            world_size=shards.world_size,
            shuffle_window=recipe.data.shuffle_window,
            max_bad_files=recipe.data.max_bad_files,
        ),
        1,
    )
    return lambda: next(batches)


def _transfer(loader: TwoViewLoader, device: torch.device) -> float | None:
    """Return the images per second over all ranks that copies from pinned memory allow, from one large copy."""
    if device.type != "cuda" or loader.backend.on_device:
        return None
    if loader.backend.name == "native":  # views of uint8, or of float32
        value_bytes = 4 if loader.source.views_in_float else 1
        size: float = sum(value_bytes * view.channels * view.size_px**2 for view in loader.views)
    elif loader.backend.device == "gpu":
        source = loader.source
        size = statistics.mean(source.read(index).nbytes for index in range(min(len(source), 64)))
    else:
        size = sum(4 * view.channels * view.size_px**2 for view in loader.views)
    there = torch.empty(2**26, dtype=torch.uint8, device=device)
    here = torch.empty_like(there, device="cpu", pin_memory=True)
    copies_per_s = Stopwatch(device, 1).rate(lambda: there.copy_(here, non_blocking=True), 0.3)
    return copies_per_s * len(here) / size * loader.shards.world_size


def _matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best rate of a few large matrix products, in FLOP per second."""
    size = 4096 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    stopwatch = Stopwatch(device, 1)
    return max(2 * size**3 * stopwatch.rate(lambda: a @ b, 0.3) for _ in range(5))
