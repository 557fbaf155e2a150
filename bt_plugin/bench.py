"""How fast a recipe trains on this machine, and what holds it back. Nothing of a run is written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bt_plugin import distributed
from bt_plugin.accelerator import build_accelerator
from bt_plugin.build import build_loader, build_model, check_compiler, open_sources
from bt_plugin.recipe import Recipe
from bt_plugin.training import Training
from bt_plugin.versions import versions
from dali_pipelines.loaders import Batch, TwoViewLoader
from dali_pipelines.params import Preset

_ROUNDS = 3
# Of the measured time, to each of loader, step, and both; the rest goes to the limits.
_SHARE = 0.28


@dataclass(frozen=True)
class Throughput:
    """Images a second over all ranks, medians of the rounds.

    Args:
        loader: Of the loader with nobody to train.
        step: Of the step on views that lie on the device already.
        both: Of training.
        decode: Of the loader if its views were tiny: reading and decoding.
        data_wait: Of training's time, the share in which it waits for views, 0 to 1.
        flops_per_image: Multiply-adds count twice; forward and backward of two views, by torch's counter.
        matmul_flops_per_s: What one rank's device does in a large matrix product, in the recipe's precision.
        transfer: That could be copied to the device, files where it decodes them, else views; None on a CPU.
    """

    loader: float
    step: float
    both: float
    decode: float
    data_wait: float
    flops_per_image: float
    matmul_flops_per_s: float
    transfer: float | None = None

    def of_matmul(self, world_size: int) -> float:
        """The part of the device's matrix products that the step reaches."""
        return self.step * self.flops_per_image / (world_size * self.matmul_flops_per_s)

    def nearest_limit(self, world_size: int) -> tuple[str, float]:
        """What training comes nearest to, and how near, 1 being there."""
        shares = {
            "large matrix products": self.of_matmul(world_size) * self.both / self.step,
            "reading and decoding": self.both / self.decode,
        }
        if self.transfer is not None:
            shares["copies to the device"] = self.both / self.transfer
        return max(shares.items(), key=lambda item: item[1])


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
    source, _ = open_sources(recipe)
    recipe.steps_per_epoch(len(source))
    loader = build_loader(recipe, source, accelerator)
    training = Training(recipe, accelerator, build_model(recipe), loader)
    for group in training.optimizer.param_groups:
        # The same work, and weights that stay where they are, however often a batch is seen.
        group["base_lr"] = 0.0
    stopwatch = _Stopwatch(accelerator.device, recipe.optim.global_batch_size, loader.maker.prefetch + 1)
    steps = _steps(loader, recipe.optim.accumulation_steps)
    fixed = [_moved(batch, accelerator.device) for batch in next(steps)]
    training.train_step(fixed)
    phase_s = seconds * _SHARE / _ROUNDS
    phases: dict[str, Callable[[], object]] = {
        "loader": lambda: next(steps),
        "step": lambda: training.train_step(fixed),
        "both": lambda: training.train_step(stopwatch.waiting(lambda: next(steps))),
    }
    raw: dict[str, list[float]] = {name: [] for name in phases}
    waits: list[float] = []
    for _ in range(_ROUNDS):
        for name, action in phases.items():
            raw[name].append(stopwatch.rate(action, phase_s))
        waits.append(stopwatch.share_waited)
    with FlopCounterMode(display=False) as counter:
        training.train_step(fixed)
    found = Throughput(
        **{name: statistics.median(values) for name, values in raw.items()},
        decode=stopwatch.rate(_tiny(loader, recipe), phase_s),
        data_wait=statistics.median(waits),
        flops_per_image=counter.get_total_flops() / loader.shards.batch_size_per_rank,
        matmul_flops_per_s=_matmul_flops_per_s(accelerator.device, accelerator.mixed_precision),
        transfer=_transfer(loader, accelerator.device),
    )
    training.writer.close()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return {
        **asdict(found),
        "raw": raw,
        "of_matmul": found.of_matmul(accelerator.num_processes),
        "advice": advice(found, recipe, accelerator.device.type, accelerator.num_processes),
        "world_size": accelerator.num_processes,
        "device": accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
        "versions": versions(),
    }


def advice(found: Throughput, recipe: Recipe, device: str, world_size: int) -> list[str]:
    """What holds training back, and which keys to change, the most useful first.

    Args:
        found: What was measured.
        recipe: That it was measured with.
        device: cpu or cuda.
        world_size: Ranks.
    """
    said = []
    if device == "cpu":
        views = found.both / found.loader
        said.append(
            f"views and step share the cores: views take {min(views, 1):.0%} of the time; on a GPU they overlap"
        )
    if found.data_wait > 0.05:
        by_decoding = found.decode < 1.3 * found.loader
        limit = "reading and decoding" if by_decoding else "making the views"
        said.append(
            f"the step waits {found.data_wait:.0%} of the time, and {limit} is what it waits for: more data.num_threads"
            f" (now {recipe.data.num_threads or 'all of this rank'}), more cores, or smaller image files"
        )
        if by_decoding and device == "cuda":
            said.append(
                f"data.hw_decoder_load (now {recipe.data.hw_decoder_load:g}) shares JPEGs between the GPU's decoder and"
                " the cores: less where cores are many, more where they are few"
            )
        if found.loader > 1.2 * found.step:
            said.append(
                f"the loader alone is fast enough, and its batches come unevenly: data.prefetch (now"
                f" {recipe.data.prefetch})"
            )
    else:
        said.append(f"the step decides: it waits {found.data_wait:.0%} of the time for views")
    reached = found.of_matmul(world_size)
    said.append(f"the step reaches {reached:.0%} of the rate of large matrix products on this device")
    nearest, share = found.nearest_limit(world_size)
    said.append(f"the nearest limit is {nearest}: training takes {share:.0%} of it")
    if recipe.optim.accumulation_steps > 1:
        said.append("optim.accumulation_steps embeds every image twice; take fewer where memory allows")
    if device == "cuda" and recipe.run.mixed_precision in ("no", "auto"):
        said.append("run.mixed_precision=bf16 doubles the rate of matrix products, if it is not on already")
    if device == "cuda" and reached < 0.3:
        said.append("a larger batch on each rank makes larger products: optim.global_batch_size, or fewer ranks")
    return said


class _Stopwatch:
    """Images a second over all ranks, and the share of the time spent within `waiting`."""

    def __init__(self, device: torch.device, images: int, ahead: int = 1) -> None:
        self._device = device
        self._ahead = ahead
        self._images = images
        self._waited_s = 0.0
        self.share_waited = 0.0

    def rate(self, action: Callable[[], object], seconds: float) -> float:
        """Of an action that every rank does, as often as rank 0 finds that the seconds allow."""
        # What was made ahead while another phase ran, and would count as speed.
        for _ in range(self._ahead):
            action()
        one_s = self._timed(action, 1)
        times = distributed.from_main(lambda: max(2, round(seconds / one_s)))
        self._waited_s = 0.0
        elapsed_s = self._timed(action, times)
        self.share_waited = self._waited_s / elapsed_s
        return times * self._images / elapsed_s

    def waiting(self, action: Callable[[], Any]) -> Any:
        begun_s = time.perf_counter()
        result = action()
        self._waited_s += time.perf_counter() - begun_s
        return result

    def _timed(self, action: Callable[[], object], times: int) -> float:
        self._finish()
        begun_s = time.perf_counter()
        for _ in range(times):
            action()
        self._finish()
        return time.perf_counter() - begun_s

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _steps(loader: TwoViewLoader, accumulation_steps: int) -> Iterator[Sequence[Batch]]:
    while True:
        yield from zip(*[iter(loader)] * accumulation_steps)


def _moved(batch: Batch, device: torch.device) -> Batch:
    return batch._replace(views=tuple(view.to(device) for view in batch.views))


def _tiny(loader: TwoViewLoader, recipe: Recipe) -> Callable[[], object]:
    """One view of 8 px without colour steps: what is left is reading and decoding."""
    view = replace(loader.views[0], size_px=8, jitter_p=0.0, blur_p=0.0, gray_p=0.0)
    shards, maker = loader.shards, loader.maker
    tiny = TwoViewLoader(
        loader.source,
        shards.batch_size_per_rank,
        Preset((view,)),
        maker.device,
        shards.rank,
        shards.world_size,
        num_threads=maker.num_threads,
        prefetch=maker.prefetch,
        backend=recipe.data.backend,
        max_bad_files=recipe.data.max_bad_files,
        max_pixels=maker.max_pixels,
    )
    batches = _steps(tiny, 1)
    return lambda: next(batches)


def _transfer(loader: TwoViewLoader, device: torch.device) -> float | None:
    """Images a second over all ranks, by the rate of one large copy from pinned memory."""
    if device.type != "cuda":
        return None
    if loader.maker.device == "gpu":
        source = loader.source
        size = statistics.mean(source.read(index).nbytes for index in range(min(len(source), 64)))
    else:
        size = sum(4 * view.channels * view.size_px**2 for view in loader.views)
    there = torch.empty(2**26, dtype=torch.uint8, device=device)
    here = torch.empty_like(there, device="cpu", pin_memory=True)
    copies_per_s = _Stopwatch(device, 1).rate(lambda: there.copy_(here, non_blocking=True), 0.3)
    return copies_per_s * len(here) / size * loader.shards.world_size


def _matmul_flops_per_s(device: torch.device, mixed_precision: str) -> float:
    """The best of a few large products."""
    size = 4096 if device.type == "cuda" else 1024
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    stopwatch = _Stopwatch(device, 1)
    return max(2 * size**3 * stopwatch.rate(lambda: a @ b, 0.3) for _ in range(5))
