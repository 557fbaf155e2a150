"""This rank's Accelerator: what was launched, and whether it is what the recipe asks for."""

from __future__ import annotations

import ctypes
import os
import shutil
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    parse_flag_from_env,
)

from bt_plugin.config.recipe import ProcessOptions, Run
from bt_plugin.errors import LaunchError, RecipeError
from bt_plugin.runtime import collectives
from bt_plugin.runtime.terminal import stderr_unless_told
from dali_pipelines.ranks import cores_per_rank


def build_accelerator(run: ProcessOptions, **options: Any) -> Accelerator:
    """Joins the ranks that were launched.

    Args:
        run: The recipe's section.
        options: More of Accelerator's, such as its trackers.

    Raises:
        RecipeError: If the device or the precision is not to be had here.
        LaunchError: If the launcher's ranks are not one group.
    """
    launched_on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    has_gpu = torch.cuda.is_available() and not launched_on_cpu
    if run.device == "gpu" and not has_gpu:
        reason = "the launcher says use_cpu" if launched_on_cpu else "torch sees no CUDA device"
        raise RecipeError(f"run.device: gpu is not allowed here, {reason}; take auto or cpu, or another launcher")
    if run.deterministic:
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    cpu = run.device == "cpu" or not has_gpu
    asked = run.mixed_precision
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") if asked == "auto" else asked
    if cpu and precision == "fp16":
        raise RecipeError("run.mixed_precision: fp16 is not allowed on a CPU; take bf16 or no")
    is_sharded = _is_sharded(precision)
    if cpu:
        # Launchers set OMP_NUM_THREADS to 1, and half of two cores would idle.
        torch.set_num_threads(cores_per_rank())
        _keep_freed_memory()
    # Where a rank does not come, torch prints pages of C++ frames around the one line that says so.
    with stderr_unless_told():
        # Without cpu=True, ranks on a machine without CUDA would each believe that they are alone.
        accelerator = _joined(run, {"cpu": cpu, "mixed_precision": precision, **options})
    collectives.check_launch()
    if is_sharded and cpu and accelerator.num_processes > 1:
        _shard_on_cpu(accelerator)
    return accelerator


def check_compiler(run: Run) -> None:
    """Refuses run.compile where torch.compile could not.

    Raises:
        RecipeError: If there is no C++ compiler.
    """
    names = [os.environ.get("CXX", ""), "g++", "clang++"]
    if run.compile and not any(shutil.which(name) for name in names):
        raise RecipeError(
            "run.compile: true is not allowed here, there is no C++ compiler; install g++, or name one in $CXX"
        )


def _joined(run: ProcessOptions, options: dict[str, Any]) -> Accelerator:
    """Make the Accelerator, which waits for the other ranks.

    Raises:
        LaunchError: If they do not come.
    """
    try:
        return Accelerator(
            kwargs_handlers=[
                DistributedDataParallelKwargs(
                    gradient_as_bucket_view=run.gradient_as_bucket_view, static_graph=run.static_graph
                ),
                InitProcessGroupKwargs(timeout=timedelta(seconds=run.timeout_s)),
            ],
            **options,
        )
    except ValueError as error:
        raise LaunchError(f"Accelerate cannot join the ranks: {error}; {collectives.LAUNCH_REMEDY}") from error
    except RuntimeError as error:
        if not collectives.is_lost_rank(error):
            raise
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        rank, world_size, address, port = (os.environ.get(name, "?") for name in names)
        says = str(error).strip().split("\n")[0].rstrip(".")
        raise LaunchError(
            f"rank {rank} of {world_size} cannot join the others at {address}:{port} within run.timeout_s"
            f" ({run.timeout_s}): {says}. Check that every rank was started, and that $MASTER_ADDR and $MASTER_PORT"
            " are rank 0's and can be reached"
        ) from error


def _keep_freed_memory() -> None:
    """Tells glibc not to give memory back to the system, to take it again at the next step: 4 % of a step's time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h's names for them
    for parameter, value in ((trim_threshold, -1), (top_pad, 64 * 2**20), (mmap_max, 0)):
        mallopt(parameter, value)


def _is_sharded(precision: str) -> bool:
    """Whether the launcher asks for FSDP."""
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return False
    if os.environ.get("FSDP_VERSION") != "2":
        raise RecipeError(
            "fsdp_version must be 2: version 1 flattens weights, whose norms LARS needs; launch with"
            " recipes/accelerate/fsdp.yaml"
        )
    if precision == "fp16":
        raise RecipeError("run.mixed_precision: fp16 is not allowed with FSDP; take bf16 or no")
    return True


def _shard_on_cpu(accelerator: Accelerator) -> None:
    """Accelerate shards on GPUs only, though torch can on a CPU: this is how that is tried without a GPU."""
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    for state in (AcceleratorState, PartialState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
