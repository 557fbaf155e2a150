"""Runs a DALI graph over a planned sequence of batches, and keeps the plan beside the pixels."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dali_pipelines.errors import BadImageError
from dali_pipelines.sources import ImageSource

Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class Plan:
    """One batch that is to be made.

    Args:
        indices: (n,) int64, into the source.
        inputs: What the graph's external source takes for this batch.
    """

    indices: NDArray[np.int64]
    inputs: list[Any]


class Stream:
    """The batches of a plan, made ahead by DALI's threads.

    Args:
        source: The files that the plans' indices point into.
        graph: Builds the pipeline from its input callback and DALI's own arguments.
        plans: The batches, in order; may be endless.
        batch_size: The largest batch.
        device: "cpu" or "gpu".
        num_threads: Of DALI, for reading, decoding and CPU operators.
        prefetch: Batches made ahead.
    """

    def __init__(
        self,
        source: ImageSource,
        graph: Callable[..., Any],
        plans: Iterator[Plan],
        *,
        batch_size: int,
        device: Literal["cpu", "gpu"],
        num_threads: int,
        prefetch: int,
    ) -> None:
        self._source = source
        self._plans = plans
        self._in_flight: deque[Plan] = deque()
        self._on_gpu = device == "gpu"
        self._pipeline = graph(
            source=self._feed,
            device=device,
            batch_size=batch_size,
            num_threads=num_threads,
            device_id=torch.cuda.current_device() if self._on_gpu else None,
            prefetch_queue_depth=prefetch,
        )

    def __iter__(self) -> Iterator[tuple[Plan, tuple[Tensor, ...]]]:
        return self

    def __next__(self) -> tuple[Plan, tuple[Tensor, ...]]:
        """One batch.

        Returns:
            The plan, and the graph's outputs.

        Shape:
            Outputs: (n, C, H, W) float32 in channels_last, DALI's own memory, safe to hold.

        Raises:
            BadImageError: If a file cannot be read or decoded; the message names it.
        """
        try:
            # On the GPU DALI then orders its work before whatever torch queues on its current stream.
            outputs = self._pipeline.run(torch.cuda.current_stream()) if self._on_gpu else self._pipeline.run()
        except RuntimeError as error:
            raise self._explained(error) from error
        plan = self._in_flight.popleft()
        return plan, tuple(torch.from_dlpack(output.as_tensor()).permute(0, 3, 1, 2) for output in outputs)

    def restart(self, plans: Iterator[Plan]) -> None:
        """Goes on with other plans; the batches already under way are thrown away."""
        self._plans = plans
        for _ in range(len(self._in_flight)):
            next(self)

    def _feed(self) -> list[Any]:
        """DALI's input callback, called in the thread that runs the pipeline."""
        plan = next(self._plans)
        self._in_flight.append(plan)
        return plan.inputs

    def _explained(self, error: RuntimeError) -> Exception:
        """DALI names some bad files and not others; PIL finds the rest."""
        for plan in self._in_flight:
            for index in plan.indices:
                reason = _why_unreadable(self._source.path(int(index)))
                if reason:
                    return BadImageError(
                        f"{self._source.path(int(index))}: {reason}; remove the file or replace it. DALI: {error}"
                    )
        return error


def encoded_paths(source: ImageSource, indices: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    """Paths as DALI's file reader takes them."""
    return [np.frombuffer(os.fsencode(source.path(int(index))), dtype=np.uint8) for index in indices]


def resolve_device(device: Device) -> Literal["cpu", "gpu"]:
    """Where "auto" is a GPU if torch sees one.

    Raises:
        ValueError: If the GPU is asked for and there is none.
    """
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device: {device!r} is not allowed; it must be auto, cpu or gpu")
    has_gpu = torch.cuda.is_available()
    if device == "gpu" and not has_gpu:
        raise ValueError("device: gpu is not allowed here, torch sees no CUDA device; take auto or cpu")
    return "gpu" if has_gpu and device != "cpu" else "cpu"


def cores_per_rank() -> int:
    """This process's share of the cores that it and its machine's other ranks may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def import_graphs() -> Any:
    """The module with the graphs, which needs DALI.

    Raises:
        ImportError: If DALI is not installed; the message says how to get it.
    """
    try:
        from dali_pipelines import graphs
    except ImportError as error:
        if error.name is None or not error.name.startswith("nvidia"):
            raise
        raise ImportError(
            "dali_pipelines' loaders need NVIDIA DALI: pip install 'bt-plugin[cuda13]', or"
            " 'bt-plugin[cuda12]' where the driver is older than 580. It runs on a CPU as well."
        ) from error
    return graphs


def _why_unreadable(path: str) -> str | None:
    try:
        if os.path.getsize(path) == 0:
            return "the file is empty"
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # PIL raises whatever its decoders raise
        return f"{type(error).__name__}: {error}"
    return None
