"""The training state comes back: every part of it, on each rank, and on other numbers of ranks."""

from __future__ import annotations

import copy
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import nn

from bt_plugin.checkpoints.state import TrainingState, with_weights_of
from bt_plugin.errors import CheckpointError
from tests.ranks import run_ranks
from tests.saved import save, state_of


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def moved(state: TrainingState, seed: int) -> None:
    """A step on random data, on a rank of its own."""
    torch.manual_seed(seed)
    state._model(torch.randn(4, 5)).square().sum().backward()
    state._optimizer.step()
    state._optimizer.zero_grad()


def everything(state: TrainingState) -> list[Any]:
    model = {key: value.clone() for key, value in state._model.state_dict().items()}
    return [model, copy.deepcopy(state._optimizer.state_dict()), *draws()]


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else bool(left == right)


def test_every_part_comes_back(tmp_path: Path) -> None:
    state = state_of(small_model())
    moved(state, seed=1)
    saved = save(state, tmp_path, 1)
    before = everything(state)
    moved(state, seed=2)
    for group in state._optimizer.param_groups:
        group["lr"] = 7.0
    assert not equal(everything(state), before)
    state.restore(saved, with_random_states=True)
    assert equal(everything(state), before)


def test_a_checkpoint_of_groups_without_names_is_restored(tmp_path: Path) -> None:
    """Older versions wrote none; the names of today stay."""
    older, newer = (state_of(small_model()) for _ in range(2))
    moved(older, seed=1)
    saved = save(older, tmp_path, 1)
    (group,) = newer._optimizer.param_groups
    group["name"], group["momentum"] = "weights", 0.5
    newer.restore(saved, with_random_states=True)
    assert newer._optimizer.param_groups[0]["name"] == "weights"
    assert newer._optimizer.param_groups[0]["momentum"] == 0.9
    states = (state._optimizer.state_dict()["state"] for state in (older, newer))
    assert equal(*states)


def test_random_states_stay_where_they_are_of_other_ranks(tmp_path: Path) -> None:
    state = state_of(small_model())
    saved = save(state, tmp_path, 1)
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    state.restore(saved, with_random_states=False)
    assert torch.equal(torch.rand(()), expected)


def test_the_gradient_scaler_comes_back(tmp_path: Path) -> None:
    state = state_of(small_model())
    state._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    saved = save(state, tmp_path, 1)
    state._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    state.restore(saved, with_random_states=True)
    assert state._accelerator.scaler.state_dict()["scale"] == 64


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    saved = save(state_of(small_model()), tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"checkpoint-1 does not fit this run: .*weight"):
        state_of(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3))).restore(saved, with_random_states=True)
    with pytest.raises(CheckpointError, match=r"checkpoint-1 does not fit this run: .*ize"):
        state_of(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))).restore(saved, True)


def sharded(rank: int, folder: str) -> list[Any]:
    """Two ranks with a shard each and BatchNorm statistics of their own: saved, moved on, and restored."""
    os.environ |= {"FSDP_VERSION": "2", "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    from bt_plugin.runtime.accelerator import _shard_on_cpu

    accelerator = Accelerator(cpu=True)
    _shard_on_cpu(accelerator)
    state = state_of(small_model())
    first = state._model[0].weight
    assert first.to_local().numel() == first.numel() // 2
    moved(state, seed=rank)
    saved = save(state, Path(folder), 1)
    before = draws()
    whole = with_weights_of(state._model, small_model()).state_dict()
    moved(state, seed=5 + rank)
    state.restore(saved, with_random_states=True)
    assert equal(draws(), before)
    restored = with_weights_of(state._model, small_model()).state_dict()
    assert equal(restored, whole)
    return [whole, before]


@pytest.mark.distributed
def test_shards_come_back_and_go_on_without_shards(tmp_path: Path) -> None:
    ranks = run_ranks(2, sharded, str(tmp_path))
    whole = ranks[0][0]
    assert equal(whole, ranks[1][0]), "each rank gathers the whole model, with rank 0's statistics"
    assert ranks[0][1] != ranks[1][1], "random states are of each rank"
    AcceleratorState._reset_state()
    PartialState._reset_state()
    state = state_of(small_model())
    moved(state, seed=9)
    state.restore(tmp_path / "checkpoint-1", with_random_states=False)
    assert equal(state._model.state_dict(), whole)
    momenta = [each["momentum"] for each in state._optimizer.state.values()]
    assert all(momentum.abs().sum() > 0 for momentum in momenta[:1])
