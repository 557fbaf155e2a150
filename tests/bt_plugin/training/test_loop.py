"""A step: what the host waits for, which is nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch.utils._python_dispatch import TorchDispatchMode

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.data.from_recipe import build_loader, open_sources
from bt_plugin.models.from_recipe import build_model
from bt_plugin.optim import lars as optim
from bt_plugin.runtime.accelerator import build_accelerator
from bt_plugin.training.loop import Training
from dali_pipelines.loaders import Batch

# Whose results the host reads, or whose shapes depend on values.
_READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_consecutive", "_unique2"}
CHOICES = [[], ["optim.accumulation_steps=2"], ["run.mixed_precision=bf16"], ["eval.every_epochs=1"]]


class Reads(TorchDispatchMode):
    """Which operations would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _READS:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def training_of(recipe: Path, *overrides: str) -> tuple[Training, list[Batch]]:
    """And the micro-batches of a step."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    loaded = load_recipe(recipe, list(overrides))
    accelerator = build_accelerator(loaded.run)
    source, val = open_sources(loaded)
    training = Training(loaded, accelerator, build_model(loaded), build_loader(loaded, source, accelerator), val)
    batches = iter(training.loader)
    return training, [next(batches) for _ in range(loaded.optim.accumulation_steps)]


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_a_step_reads_nothing_from_the_device(
    small_recipe: Path, choices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the operations alone, so that it is seen without a GPU; with its optimizer's way, not that of a CPU."""
    monkeypatch.setattr(optim, "_is_plain_on_cpu", lambda p: False)
    training, batch = training_of(small_recipe, *choices)
    with Reads() as reads:
        for _ in range(3):
            training.train_step(batch)
    assert reads.seen == []
    with reads:
        training.nonfinite.total.item()
    assert len(reads.seen) == 1, "a read would be seen"


@pytest.mark.gpu
@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_a_step_never_waits_for_the_gpu(small_recipe: Path, choices: list[str]) -> None:
    training, batch = training_of(small_recipe, "run.device=gpu", *choices)
    # The first steps allocate, and choose algorithms.
    for _ in range(2):
        training.train_step(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            training.train_step(batch)
        with pytest.raises(RuntimeError, match="synchroniz"):
            training.nonfinite.total.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
