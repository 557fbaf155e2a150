"""Make this process one rank of many that do not exist, so that a step's collectives run here without any data."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import distributed
from torch._subclasses.fake_tensor import unset_fake_temporarily

from bt_plugin.config.run import ProcessOptions
from bt_plugin.errors import LaunchError
from bt_plugin.runtime.accelerator import build_accelerator, process_settings_restored

# The options of recipes/accelerate/fsdp.yaml, as `accelerate launch` hands them over.
_FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
    "FSDP_MIN_NUM_PARAMS": "10000000",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
_LAUNCHERS = ("ACCELERATE_", "FSDP_")
_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def fake_rank(run: ProcessOptions, *, world_size: int, fsdp: bool) -> Iterator[Accelerator]:
    """Yield the Accelerator of rank 0 of a run on a CPU, whose other ranks do not exist.

    Args:
        run: The recipe's section `run`. Its device must be "cpu".
        world_size: Number of ranks, 1 or more.
        fsdp: Whether the ranks shard the weights, as recipes/accelerate/fsdp.yaml does.

    Raises:
        LaunchError: If this process already belongs to a group of ranks.
    """
    if distributed.is_available() and distributed.is_initialized():
        raise LaunchError(
            "plan cannot run in a process that belongs to a run, such as one that `accelerate launch` started. Run"
            " bt-plugin plan as a command of its own"
        )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS) and name not in _RANK}
    ours = _ranks(world_size) if world_size > 1 else {}
    environment = patch.dict(os.environ, {**kept, **ours, **(_FSDP if fsdp else {})}, clear=True)
    mesh = _mesh_of_real_numbers() if fsdp else nullcontext()
    with (
        warnings.catch_warnings(),
        environment,
        _accelerate_forgotten(),
        process_settings_restored(),
        _group(world_size),
        mesh,
    ):
        # Our models change no output of a part in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
        accelerator = build_accelerator(run)
        for state in (AcceleratorState, PartialState):
            # Accelerate names the CPU cpu:0, and fake tensors distinguish it from the CPU.
            state._shared_state["device"] = torch.device("cpu")
        yield accelerator


def _ranks(world_size: int) -> dict[str, str]:
    numbers = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return {**{name: str(number) for name, number in numbers.items()}, "MASTER_ADDR": "localhost", **threads}


@contextmanager
def _accelerate_forgotten() -> Iterator[None]:
    """Let Accelerate begin anew, and restore what it knew about this process."""
    with ExitStack() as restored:
        for state in (PartialState, AcceleratorState, GradientState):
            restored.enter_context(patch.dict(state._shared_state, clear=True))
        yield


@contextmanager
def _group(world_size: int) -> Iterator[None]:
    if world_size == 1:
        yield
        return
    # torch up to 2.10 knows the shapes of collectives only after this import.
    import torch.distributed._tools.fake_collectives  # noqa: F401
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def _mesh_of_real_numbers() -> Iterator[None]:
    """Let FSDP make its mesh of ranks with real tensors, because it reads the ranks' numbers from them."""
    from torch.distributed.fsdp._fully_shard import _fsdp_init

    make = _fsdp_init.init_device_mesh

    def outside(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return make(*args, **kwargs)

    with patch.object(_fsdp_init, "init_device_mesh", outside):
        yield


@contextmanager
def unverified() -> Iterator[None]:
    """Let DistributedDataParallel skip its comparison of all ranks' weights, which have no values here."""
    from torch.nn.parallel import distributed as ddp

    with (
        patch.object(ddp, "_verify_param_shape_across_processes", lambda *_, **__: True),
        patch.object(ddp, "_sync_module_states", lambda *_, **__: None),
    ):
        yield


@contextmanager
def unseen_shapes(unseen: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Let no meter see the whole tensors whose shapes DTensor asks for, once for each operation. No rank has them.

    Args:
        unseen: Function that returns a function which is not measured.
    """
    from torch.distributed.tensor._sharding_prop import ShardingPropagator

    asked = "_propagate_tensor_meta_non_cached"
    with patch.object(ShardingPropagator, asked, unseen(getattr(ShardingPropagator, asked))):
        yield
