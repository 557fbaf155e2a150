"""How fast it is, measured, and what is said of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from bt_plugin.cli import main
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.data.from_recipe import build_loader, open_sources
from bt_plugin.runtime.accelerator import build_accelerator
from bt_plugin.tools.bench import Stopwatch, _backend_like, bench, optimizer_share


@pytest.fixture(autouse=True)
def _alone() -> None:
    AcceleratorState._reset_state()
    PartialState._reset_state()


def test_the_rates_are_those_of_the_run(small_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training is no faster than either part; nothing of a run is written."""
    output = tmp_path / "bench.json"
    assert main(["bench", str(small_recipe), "--seconds", "6", "-o", str(output), "optim.accumulation_steps=2"]) == 0
    found = json.loads(output.read_text())
    assert found["both"] < 1.5 * min(found["loader"], found["step"]), "and noise"
    assert found["decode"] > 0.7 * found["loader"]
    assert 0 < found["data_wait"] < 1
    assert 0 < found["optimizer_share"] < 0.5
    assert all(len(rounds) == 3 for rounds in found["raw"].values())
    assert 0 < found["of_matmul"] < 1.5
    assert found["matmul_bf16_flops_per_s"] > 0
    assert found["backend"] == "native"
    assert found["other_loader"] > 0, "DALI is installed with the tests"
    assert found["recipe"]["optim"]["accumulation_steps"] == 2
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["gpu"] == "none" or torch.cuda.is_available()
    printed = capsys.readouterr().out
    assert "the step alone, on views that are already on the device" in printed
    assert "optim.accumulation_steps above 1 embeds every image twice" in printed
    assert not (tmp_path / "run").exists()
    assert main(["bench", str(small_recipe), "-o", str(output)]) == 2
    assert "already exists" in capsys.readouterr().err


def test_the_optimizers_part_of_a_step_is_measured() -> None:
    class Slow(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            time.sleep(0.01)

    optimizer = Slow([torch.zeros(1)], lr=0.0)

    def step() -> None:
        time.sleep(0.03)
        optimizer.step()

    stopwatch = Stopwatch(torch.device("cpu"), images=1)
    assert optimizer_share(optimizer, step, stopwatch=stopwatch, seconds=0.4) == pytest.approx(0.25, rel=0.2)
    stopwatch.rate(step, 0.1)
    assert stopwatch.share_within == 0, "the hooks are gone"


def test_the_work_of_an_image_is_counted(small_recipe: Path) -> None:
    """Of a layer of known size: twice forward for two views, and twice as much again for each backward pass."""
    options = [
        "model.backbone=torchvision/shufflenet_v2_x0_5",
        "model.projector=[4096]",
        "views.both.size_px=32",
        "loss.form=gram",
    ]
    wide = bench(load_recipe(small_recipe, options), seconds=0.5)
    AcceleratorState._reset_state()
    PartialState._reset_state()
    narrow = bench(load_recipe(small_recipe, [*options[:1], "model.projector=[2048]", *options[2:]]), seconds=0.5)
    difference = wide["flops_per_image"] - narrow["flops_per_image"]
    projector = 2 * 3 * 2 * 1024 * 2048
    loss = 4 * 2 * 8 * 2048
    assert difference == pytest.approx(projector + loss, rel=0.05)


def test_weights_stay_where_they_are(small_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch seen a hundred times would otherwise end in NaN."""
    from bt_plugin.tools import bench as module

    kept: dict[str, Any] = {}

    class Kept(module.TrainStep):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            kept["model"] = self.model
            kept["before"] = [p.detach().clone() for p in self.model.parameters()]

    monkeypatch.setattr(module, "TrainStep", Kept)
    bench(load_recipe(small_recipe, []), seconds=1.0)
    assert all(torch.equal(p, before) for p, before in zip(kept["model"].parameters(), kept["before"]))


def test_decoding_is_measured_with_the_runs_decoder(small_recipe: Path) -> None:
    pytest.importorskip("nvidia.dali")
    recipe = load_recipe(small_recipe, ["data.backend=dali", "data.hw_decoder_load=0.25", "data.prefetch=3"])
    source, _ = open_sources(recipe)
    loader = build_loader(recipe, source, build_accelerator(recipe.run))
    backend = _backend_like(loader, recipe, torch.device("cpu")).resolve()
    assert backend == loader.backend
    assert backend.tuning.hw_decoder_load == 0.25
