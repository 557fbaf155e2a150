"""SIGKILL at random moments, ten with two ranks, most of them in a checkpoint, and the run is the same run."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bt_plugin.checkpoints.folder import checkpoints, damage_of
from tests.forks import pretrain_on, run_forked

DEATHS = {1: 6, 2: 10}


def live(
    recipe: Path,
    folder: Path,
    world_size: int,
    deaths: Sequence[int] = (),
    options: Sequence[str] = ("run.checkpoint_every_steps=1",),
    **environment: str,
) -> int:
    """Run to the end, with lives before that are killed, and return how many were killed."""
    if not deaths and world_size > 1:  # one rank of tests.mortal is in a group, and its sums have another order
        done = pretrain_on(world_size, str(recipe), f"run.output_dir={folder}", *options, **environment)
        assert done.returncode == 0, done.stderr
        return 0
    scenario = {
        "arguments": ["pretrain", str(recipe), f"run.output_dir={folder}", *options],
        "folder": str(folder),
        "world_size": world_size,
        "deaths": deaths,
    }
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(scenario))
    result = run_forked(1, "tests.mortal", str(path), **environment)
    assert result.returncode == 0, result.stderr
    return int(path.with_suffix(".killed").read_text())


def learnt(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("images_per_s", "data_wait")} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_a_run_survives_anything(small_recipe: Path, tmp_path: Path, world_size: int) -> None:
    # A start takes 8 changes of files, a checkpoint about 12: deaths come in the first three steps of each life.
    rng = random.Random(world_size)
    deaths = [rng.randint(9, 45) for _ in range(DEATHS[world_size])]
    killed = live(small_recipe, tmp_path / "mortal", world_size, deaths)
    assert live(small_recipe, tmp_path / "whole", world_size) == 0
    assert killed >= DEATHS[world_size] // 2, "later lives find the run done"
    assert learnt(tmp_path / "mortal") == learnt(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / name / "export" / "backbone.safetensors") for name in ("mortal", "whole"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("mortal", "whole")]
    assert summaries[0]["knn_top1"] == summaries[1]["knn_top1"]
    left = checkpoints(tmp_path / "mortal")
    assert [path.name for path in left] == ["checkpoint-11", "checkpoint-12"]
    assert [damage_of(path) for path in left] == [None, None]
    assert not list((tmp_path / "mortal").glob(".checkpoint*"))
