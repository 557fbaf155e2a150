"""Build this rank's Accelerator, and check that the launch fits the recipe."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    parse_flag_from_env,
)

from bt_plugin.config.run import ProcessOptions, Run
from bt_plugin.errors import LaunchError, RecipeError
from bt_plugin.runtime import collectives
from bt_plugin.runtime.terminal import stderr_unless_told
from dali_pipelines.ranks import cores_per_rank


def build_accelerator(run: ProcessOptions, **options: Any) -> Accelerator:
    """Build this rank's Accelerator, which joins the launched ranks.

    Args:
        run: The recipe's section `run`.
        options: Further arguments of Accelerator, such as its trackers.

    Raises:
        RecipeError: If the device or the precision is not available here.
        LaunchError: If the launched ranks do not form one group.
    """
    collectives.check_new_group()
    launched_on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    has_gpu = torch.cuda.is_available() and not launched_on_cpu
    if run.device == "gpu" and not has_gpu:
        reason = "the launcher set use_cpu" if launched_on_cpu else "torch sees no CUDA device"
        raise RecipeError(
            f"run.device: gpu is not allowed here, because {reason}. Set it to auto or cpu, or change the launch"
        )
    if run.deterministic:
        # cuBLAS reads this variable at its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    cpu = run.device == "cpu" or not has_gpu
    asked = run.mixed_precision
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") if asked == "auto" else asked
    if cpu and precision == "fp16":
        raise RecipeError("run.mixed_precision: fp16 is not allowed on a CPU. Set it to bf16 or no")
    is_sharded = _is_sharded(precision)
    # Launchers set OMP_NUM_THREADS to 1, which would leave a rank's other cores idle, on a GPU run too.
    torch.set_num_threads(cores_per_rank())
    if cpu:
        _keep_freed_memory()
    else:
        # The sizes of a run do not change, so cuDNN searches for its fastest algorithms only once.
        torch.backends.cudnn.benchmark = not run.deterministic
    # If a rank is missing, torch prints pages of C++ frames around the one line of the error.
    with stderr_unless_told():
        # Without cpu=True, each rank on a machine without CUDA would form a group of its own.
        accelerator = _joined(run, {"cpu": cpu, "mixed_precision": precision, **options})
    collectives.check_launch()
    collectives.note_group()
    if is_sharded and cpu and accelerator.num_processes > 1:
        _shard_on_cpu(accelerator)
    return accelerator


@contextmanager
def process_settings_restored() -> Iterator[None]:
    """Restore the settings of the process that an Accelerator changes, so that another run can follow.

    A process has one state of Accelerate. If there is one already, it is kept.
    """
    had_state = bool(PartialState._shared_state)
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)
        if not had_state:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


def check_compiler(run: Run) -> None:
    """Check that torch.compile can work if the recipe sets run.compile.

    Raises:
        RecipeError: If there is no C++ compiler.
    """
    names = [os.environ.get("CXX", ""), "g++", "clang++"]
    if run.compile and not any(shutil.which(name) for name in names):
        raise RecipeError(
            "run.compile: true needs a C++ compiler, but there is none. Install g++, or set $CXX to a compiler"
        )


def _joined(run: ProcessOptions, options: dict[str, Any]) -> Accelerator:
    """Make the Accelerator, which waits for the other ranks.

    Raises:
        LaunchError: If they do not come within run.timeout_s.
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
        raise LaunchError(f"Accelerate cannot join the ranks: {error}. {collectives.LAUNCH_REMEDY}") from error
    except RuntimeError as error:
        if not collectives.is_lost_rank(error):
            raise
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        rank, world_size, address, port = (os.environ.get(name, "?") for name in names)
        says = str(error).strip().split("\n")[0].rstrip(".")
        raise LaunchError(
            f"rank {rank} of {world_size} cannot join the others at {address}:{port} within run.timeout_s"
            f" ({run.timeout_s}): {says}. Check that every rank was started, and that $MASTER_ADDR and $MASTER_PORT"
            " are those of rank 0 and reachable"
        ) from error


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step instead of returning it, which costs 4 % of a step's time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # values of M_TRIM_THRESHOLD and so on in malloc.h
    for parameter, value in ((trim_threshold, -1), (top_pad, 64 * 2**20), (mmap_max, 0)):
        mallopt(parameter, value)


def _is_sharded(precision: str) -> bool:
    """Return whether the launcher asks for FSDP."""
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return False
    if os.environ.get("FSDP_VERSION") != "2":
        raise RecipeError(
            "fsdp_version must be 2: version 1 flattens weights, but the optimizers need each weight by itself. Launch"
            " with recipes/accelerate/fsdp.yaml"
        )
    if precision == "fp16":
        raise RecipeError("run.mixed_precision: fp16 is not allowed with FSDP. Set it to bf16 or no")
    return True


def _shard_on_cpu(accelerator: Accelerator) -> None:
    """Turn on FSDP on a CPU, for tests without a GPU. torch can shard there, but Accelerate does not."""
    plugin = accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)  # as Accelerate does on GPUs
    for state in (AcceleratorState, PartialState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
