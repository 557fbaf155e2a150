"""The GPU memory that `plan` computes for a run, from within a process that belongs to the run's ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError

# What launchers set. A process with these would look for the other ranks.
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_")
_LIMIT_S = 300


def planned_gib(recipe: Recipe, *, world_size: int, fsdp: bool, num_images: int) -> float:
    """Return the GPU memory of a rank in GiB, by `bt-plugin plan` in a process of its own.

    Args:
        recipe: Recipe of the run.
        world_size: Number of ranks.
        fsdp: Whether the ranks shard the weights.
        num_images: Number of images that an epoch sees.

    Raises:
        RecipeError: If the run cannot be planned.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(recipe.to_yaml())
        command = [sys.executable, "-m", "bt_plugin", "plan", str(path), "--json", "--world-size", str(world_size)]
        command += ["--num-images", str(num_images), *(["--fsdp"] if fsdp else [])]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHED)}
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                env={**environment, "CUDA_VISIBLE_DEVICES": ""},
                timeout=_LIMIT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise RecipeError(f"plan did not end within {_LIMIT_S} s; run bt-plugin plan by itself") from error
    if done.returncode != 0:
        raise RecipeError(done.stderr.strip().split("\n")[-1].removeprefix("error: "))
    (total,) = [part["low"] for part in json.loads(done.stdout)["memory"] if part["name"] == "total"]
    return float(total)
