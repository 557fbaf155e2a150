"""Everything of a run that moves: one state, whether a rank holds the whole model or a shard of it."""

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

# Said at each save and load of a run of one rank, which is no mistake.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


class TrainingState:
    """Weights, BatchNorm's statistics, optimizer, gradient scaler, and the random states of this rank.

    Its layout does not depend on how the model is distributed, nor over how many ranks.

    Args:
        accelerator: Of this rank.
        model: Prepared by it.
        optimizer: Of its parameters, with the state of each made.
        timeout: After which a rank that does not take part in writing is an error.
        extras: What else has a state_dict of tensors, the same on every rank. One that a checkpoint does not have
            yet stays as it is.
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
        # Keeps its memory, whose first use costs ten times the copy; for a GPU it is pinned.
        self._stager = BlockingAsyncStager(cache_staged_state_dict=True)

    def copied(self) -> dict[str, Any]:
        """A copy in the host's memory, which stays as it is until the next one. To be called on every rank."""
        # torch would make a state that is missing by a step, which leaves more than zeros.
        assert self._optimizer.state, "the optimizer has its state before the first checkpoint"
        _agree_on_buffers(self._model)
        state = self._current()
        state["random"] = {self._rank: random_states(self._accelerator.device)}
        if self._stager.state_dict_cache is None and self._accelerator.device.type == "cpu":
            self._stager.state_dict_cache = BlockingAsyncStager().stage(state)
        copy: dict[str, Any] = self._stager.stage(state)
        return copy

    def restore(self, checkpoint: Path, with_random_states: bool) -> None:
        """Takes over what a checkpoint holds. To be called on every rank.

        Args:
            checkpoint: A whole one.
            with_random_states: Whether it is of as many ranks, so that each has its own there.

        Raises:
            CheckpointError: If something is not in it, or does not fit.
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
        """What to read this rank's random states into: bytes where an older version wrote a pickle, else tensors."""
        place = f"random.{self._rank}"
        if place in keys:
            return b""
        wanted = random_states(self._accelerator.device)
        # A run on a CPU has none of a GPU; all others must be there.
        return {name: value for name, value in wanted.items() if name != "gpu" or f"{place}.gpu" in keys}

    def _current(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._model, self._optimizer)
        state = {"model": model, "optimizer": optimizer}
        state |= {name: extra.state_dict() for name, extra in self._extras.items()}
        if self._accelerator.scaler is not None:
            state["scaler"] = self._accelerator.scaler.state_dict()
        return state


def with_weights_of(model: nn.Module, plain: M) -> M:
    """The plain model with the weights of one that may be sharded or wrapped. To be called on every rank."""
    _agree_on_buffers(model)
    plain.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))
    return plain


def _taken_out(group: dict[str, Any], place: str, keys: set[str]) -> dict[str, Any]:
    """Take out what an older version did not write of a parameter group, such as its name."""
    names = [name for name in group if name != "params" and f"{place}.{name}" not in keys]
    return {name: group.pop(name) for name in names}


def _agree_on_buffers(model: nn.Module) -> None:
    """Where BatchNorm is not synchronised, on a CPU, ranks differ in its statistics; rank 0's are the model's."""
    collectives.broadcast_(model.buffers())
