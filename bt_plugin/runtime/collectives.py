"""Collectives over the ranks of a run.

Every function also works without a process group, as in a group of one rank. tests/test_architecture.py lists the
other modules that use a part of torch.distributed, such as its checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from bt_plugin.errors import LaunchError
from dali_pipelines.ranks import number_from_environment

T = TypeVar("T")

# torch 2.14 has given the function that gathers into one tensor a new name.
GATHER = "all_gather_single" if hasattr(distributed, "all_gather_single") else "all_gather_into_tensor"
# The addresses at which this process has met other ranks.
_MET_AT: set[str] = set()

LAUNCH_REMEDY = "Launch with one of recipes/accelerate/*.yaml (on CPU: cpu_2proc.yaml), or unset WORLD_SIZE"


def is_available() -> bool:
    return distributed.is_available()


def world_size() -> int:
    """Return the number of ranks that collectives run over."""
    return distributed.get_world_size() if _is_grouped() else 1


def is_main() -> bool:
    """Return whether this is rank 0, the only rank that prints. Works before the group is formed and after its end."""
    return distributed.get_rank() == 0 if _is_grouped() else os.environ.get("RANK", "0") == "0"


def all_reduce_sum_(tensor: Tensor) -> Tensor:
    """Sum a tensor over ranks, in place, without a gradient."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def all_gather(tensor: Tensor) -> Tensor:
    """Gather tensors of the same shape from all ranks to (world_size, *shape), without a gradient."""
    if world_size() == 1:
        return tensor.unsqueeze(0)
    everyone = tensor.new_empty((world_size(), *tensor.shape))
    # Gloo supports only the concatenated layout.
    getattr(distributed, GATHER)(everyone.flatten(0, 1), tensor.contiguous())
    return everyone


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Overwrite each tensor with rank 0's values."""
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def all_gather_objects(item: T) -> list[T]:
    """Gather a picklable object from each rank, in the order of ranks."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    distributed.all_gather_object(items, item)
    return items


def from_main(function: Callable[[], T]) -> T:
    """Call a function on rank 0. Return its result, or raise its error, on every rank.

    Args:
        function: Function whose result or error can be pickled.
    """
    if world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            outcome[0] = function()
        except Exception as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def main_first(function: Callable[[], T]) -> T:
    """Call a function on every rank, on rank 0 before the others. These then find what it has downloaded.

    Args:
        function: Function whose error can be pickled. An error on rank 0 is raised on every rank.
    """
    results: list[T] = []
    from_main(lambda: results.append(function()))
    return results[0] if results else function()


def cpu_group(timeout: timedelta) -> Any:
    """Return a gloo group of all ranks, which runs independently of the GPUs. Call this on every rank.

    Returns:
        The group, None for a single rank.
    """
    return distributed.new_group(backend="gloo", timeout=timeout) if world_size() > 1 else None


class Vote:
    """A repeated vote on whether any rank says yes. All ranks get the answer at the same call.

    The next call returns the answer to this call, so that no rank waits. The vote runs over gloo, so that no GPU waits.

    Args:
        timeout: Time after which a rank that does not answer is an error.
    """

    def __init__(self, timeout: timedelta) -> None:
        self._group = cpu_group(timeout)
        self._yes = torch.zeros(1)
        self._under_way: distributed.Work | None = None

    def ask(self, yes: bool) -> bool:
        """Give this rank's vote. Call this on every rank equally often.

        Args:
            yes: Vote of this rank.

        Returns:
            Whether any rank said yes at the last call. A single rank gets its own vote of this call.
        """
        if self._group is None:
            return yes
        answer = self.close()
        self._yes = torch.tensor([float(yes)])
        self._under_way = distributed.all_reduce(self._yes, group=self._group, async_op=True)
        return answer

    def ask_now(self, yes: bool) -> bool:
        """Give this rank's vote, and wait for all others. Call this on every rank equally often.

        Args:
            yes: Vote of this rank.

        Returns:
            Whether any rank said yes.
        """
        if self._group is None:
            return yes
        answer = torch.tensor([float(yes)])
        distributed.all_reduce(answer, group=self._group)
        return bool(answer.item())

    def close(self) -> bool:
        """Wait for the last answer, and return it."""
        if self._under_way is None:
            return False
        self._under_way.wait()
        self._under_way = None
        return bool(self._yes.item())


def note_group() -> None:
    """Note where this process has met the other ranks. See check_new_group."""
    if world_size() > 1:
        _MET_AT.add(_meeting_address())


def check_new_group() -> None:
    """Check that this process does not meet other ranks at an address where it has met them before.

    Raises:
        LaunchError: If it does. The store at that address still has what the ended group wrote, so another would not
            form, or form wrongly.
    """
    if not _is_grouped() and (address := _meeting_address()) in _MET_AT:
        raise LaunchError(
            f"the group of ranks at {address} has ended with an earlier call, and cannot be formed again. Launch the"
            " ranks once for each call of bt_plugin, or give each call another $MASTER_PORT"
        )


def _meeting_address() -> str:
    return f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"


def is_lost_rank(error: BaseException) -> bool:
    """Return whether an error is that of a collective in which another rank did not take part."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in ("gloo", "nccl"))


def check_launch() -> None:
    """Check that the launched processes form one group, because otherwise each would train a copy of the run.

    Without CUDA, `accelerate launch` starts processes that do not join one group unless the script asks for the CPU.
    See recipes/accelerate/cpu_2proc.yaml.

    Raises:
        LaunchError: If $WORLD_SIZE and the size of the process group differ.
    """
    launched = number_from_environment("WORLD_SIZE", 1)
    if launched != world_size():
        raise LaunchError(
            f"WORLD_SIZE is {launched}, but this process is in a group of {world_size()}: each rank would train alone."
            f" {LAUNCH_REMEDY}"
        )


def _is_grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()
