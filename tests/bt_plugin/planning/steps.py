"""Recipes of small steps, and their measurement by benchmarks/measured_step.py, which does not use the meter."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from tests.conftest import REPOSITORY


def step_recipe(**changes: Any) -> Recipe:
    """Return a recipe of a small step, which a CPU computes as a GPU does. Keys have ``__`` instead of a dot."""
    keys = {
        "run.device": "cpu",
        "run.memory_format": "channels_last",
        "run.log_every_steps": 1,
        "model.backbone": "timm/test_resnet",
        "model.projector": [64, 64],
        "views.both.size_px": 64,
        # LARS has other code for a CPU.
        "optim.name": "sgd",
        "optim.global_batch_size": 8,
    }
    keys |= {key.replace("__", "."): value for key, value in changes.items()}
    return load_recipe({"data": {"train": "data"}, "run": {"output_dir": "runs/plan"}}, keys)


def benchmark(name: str) -> Any:
    """Import a module of benchmarks/."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module
