"""Collectives over the ranks of a run.

Other modules that name a part of torch.distributed, such as its checkpoints, are listed in tests/test_architecture.py.
Every function works without a process group too, as in a group of one.
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

LAUNCH_REMEDY = "launch with one of recipes/accelerate/*.yaml (on CPU: cpu_2proc.yaml), or unset WORLD_SIZE"


def is_available() -> bool:
    return distributed.is_available()


def world_size() -> int:
    """The number of ranks that collectives run over."""
    return distributed.get_world_size() if _is_grouped() else 1


def is_main() -> bool:
    """Whether this is rank 0, which alone prints; also before the group is formed and after it ended."""
    return distributed.get_rank() == 0 if _is_grouped() else os.environ.get("RANK", "0") == "0"


def all_reduce_sum_(tensor: Tensor) -> Tensor:
    """Sums over ranks, in place. Not seen by autograd."""
    if world_size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def all_gather(tensor: Tensor) -> Tensor:
    """The tensors of all ranks, which have one shape, as (world_size, *shape). Not seen by autograd."""
    if world_size() == 1:
        return tensor.unsqueeze(0)
    everyone = tensor.new_empty((world_size(), *tensor.shape))
    # Gloo knows the concatenated layout alone.
    distributed.all_gather_into_tensor(everyone.flatten(0, 1), tensor.contiguous())
    return everyone


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Overwrites each tensor with rank 0's."""
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def all_gather_objects(item: T) -> list[T]:
    """Each rank's picklable object, by rank."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    distributed.all_gather_object(items, item)
    return items


def from_main(function: Callable[[], T]) -> T:
    """What the function returns on rank 0, on every rank; or raises there.

    Args:
        function: Called on rank 0 alone; what it returns or raises can be pickled.
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


def cpu_group(timeout: timedelta) -> Any:
    """A group of all ranks over gloo, beside whatever the GPUs do; None in a group of one. Called on every rank."""
    return distributed.new_group(backend="gloo", timeout=timeout) if world_size() > 1 else None


class Vote:
    """Whether any rank says yes, as all ranks learn at the same call.

    What one call asks, the next call answers, so that nobody waits for it; over gloo, so that no GPU does.

    Args:
        timeout: After which a rank that does not answer is an error.
    """

    def __init__(self, timeout: timedelta) -> None:
        self._group = cpu_group(timeout)
        self._yes = torch.zeros(1)
        self._under_way: distributed.Work | None = None

    def ask(self, yes: bool) -> bool:
        """To be called on every rank, as often as on the others.

        Returns:
            What any rank said at the last call; in a group of one, what is said now.
        """
        if self._group is None:
            return yes
        answer = self.close()
        self._yes = torch.tensor([float(yes)])
        self._under_way = distributed.all_reduce(self._yes, group=self._group, async_op=True)
        return answer

    def close(self) -> bool:
        """Waits for the last answer, and returns it."""
        if self._under_way is None:
            return False
        self._under_way.wait()
        self._under_way = None
        return bool(self._yes.item())


def is_lost_rank(error: BaseException) -> bool:
    """Whether an error is that of a collective which another rank did not take part in."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in ("gloo", "nccl"))


def check_launch() -> None:
    """Refuses to train N copies of a run that believe they are alone.

    `accelerate launch` can start processes that do not join one group: without CUDA, unless the
    script asks for the CPU; see recipes/accelerate/cpu_2proc.yaml.

    Raises:
        LaunchError: If $WORLD_SIZE and the size of the process group differ.
    """
    launched = number_from_environment("WORLD_SIZE", 1)
    if launched != world_size():
        raise LaunchError(
            f"WORLD_SIZE is {launched}, but this process is in a group of {world_size()}: each rank would train alone;"
            f" {LAUNCH_REMEDY}"
        )


def _is_grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()
