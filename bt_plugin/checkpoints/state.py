"""The training state of a run. It is the same whether a rank holds the whole model or a shard of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.stateful import Stateful

from bt_plugin.checkpoints.random_states import from_pickle, random_states, set_random_states
from bt_plugin.checkpoints.reader import read_state, written_keys
from bt_plugin.errors import CheckpointError
from bt_plugin.runtime import collectives

M = TypeVar("M", bound=nn.Module)

# torch warns at each save and load of a run of one rank, which is not a mistake.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


class TrainingState:
    """Weights, BatchNorm statistics, optimizer, gradient scaler, and the random states of this rank.

    The layout does not depend on how the model is distributed, or over how many ranks.

    Args:
        accelerator: Accelerator of this rank.
        model: Model that the accelerator prepared.
        optimizer: Optimizer of the model's parameters. It already has a state for each parameter.
        timeout: Time after which a rank that does not take part in writing is an error.
        extras: Other objects with a state_dict of tensors that is the same on every rank, by name. An object that a
            checkpoint does not have keeps its state.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        timeout: timedelta,
        extras: Mapping[str, Stateful] | None = None,
    ) -> None:
        self._extras = extras or {}
        self.group = collectives.cpu_group(timeout)
        self._accelerator = accelerator
        self._model = model
        self._optimizer = optimizer
        # This stager keeps its memory, because first use costs ten times the copy. For a GPU the memory is pinned.
        self._stager = BlockingAsyncStager(cache_staged_state_dict=True)

    def copied(self) -> dict[str, Any]:
        """Return a copy in host memory that is valid until the next copy. Call this on every rank."""
        # torch would create a missing state by taking a step, which changes more than that state.
        assert self._optimizer.state, "the optimizer has its state before the first checkpoint"
        _agree_on_buffers(self._model)
        state = self._current()
        state["random"] = {self._rank: random_states(self._accelerator.device)}
        if self._stager.state_dict_cache is None and self._accelerator.device.type == "cpu":
            self._stager.state_dict_cache = BlockingAsyncStager().stage(state)
        copy: dict[str, Any] = self._stager.stage(state)
        return copy

    def restore(self, checkpoint: Path, with_random_states: bool) -> None:
        """Load a checkpoint into model, optimizer and the other parts. Call this on every rank.

        Args:
            checkpoint: Folder of a whole checkpoint.
            with_random_states: Whether the same number of ranks wrote it, so that it has each rank's random states.

        Raises:
            CheckpointError: If the checkpoint lacks a part, or a part does not fit.
        """
        state = self._current()
        keys = written_keys(checkpoint)
        if with_random_states:
            state["random"] = {self._rank: self._random_states_wanted(keys)}
        written = {key.split(".")[0] for key in keys}
        for name in self._extras.keys() - written:
            del state[name]
        groups = state["optimizer"]["param_groups"]
        unwritten = [_taken_out(group, f"optimizer.param_groups.{at}", keys) for at, group in enumerate(groups)]
        read_state(checkpoint, state, group=self.group)
        for group, own in zip(groups, unwritten):
            group.update(own)
        set_state_dict(
            self._model,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        for name in self._extras.keys() & written:
            self._extras[name].load_state_dict(state[name])
        if with_random_states:
            read = state["random"][self._rank]
            try:
                set_random_states(from_pickle(read) if isinstance(read, bytes) else read, self._accelerator.device)
            except CheckpointError as error:
                raise CheckpointError(f"{checkpoint}, random.{self._rank}: {error}") from error

    @property
    def _rank(self) -> str:
        return str(self._accelerator.process_index)

    def _random_states_wanted(self, keys: set[str]) -> Any:
        """Return what to read this rank's random states into: bytes for an older version's pickle, else tensors."""
        place = f"random.{self._rank}"
        if place in keys:
            return b""
        wanted = random_states(self._accelerator.device)
        # A run on a CPU has no GPU state. All other states must be in the checkpoint.
        return {name: value for name, value in wanted.items() if name != "gpu" or f"{place}.gpu" in keys}

    def _current(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._model, self._optimizer)
        state = {"model": model, "optimizer": optimizer}
        state |= {name: extra.state_dict() for name, extra in self._extras.items()}
        if self._accelerator.scaler is not None:
            state["scaler"] = self._accelerator.scaler.state_dict()
        return state


def with_weights_of(model: nn.Module, plain: M) -> M:
    """Return the plain model with the weights of a model that may be sharded or wrapped. Call this on every rank."""
    plain.load_state_dict(whole_weights(model))
    return plain


def whole_weights(model: nn.Module) -> dict[str, Any]:
    """Return the weights of a model that may be sharded or wrapped. Call this on every rank."""
    _agree_on_buffers(model)
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def _taken_out(group: dict[str, Any], place: str, keys: set[str]) -> dict[str, Any]:
    """Remove and return the values of a parameter group that an older version did not write, such as its name."""
    names = [name for name in group if name != "params" and f"{place}.{name}" not in keys]
    return {name: group.pop(name) for name in names}


def _agree_on_buffers(model: nn.Module) -> None:
    """Give every rank the buffers of rank 0. They differ in layers that synchronize_batch_norm does not know."""
    collectives.broadcast_(model.buffers())
