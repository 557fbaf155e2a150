"""Runs a DALI graph over a planned sequence of batches, and keeps the plan beside the pixels."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipelines.backends import Maker
from dali_pipelines.decoding import bad_image, why_unreadable
from dali_pipelines.plans import Plan
from dali_pipelines.sources import ImageSource


class Stream:
    """The batches of a plan, made ahead by DALI's threads.

    Args:
        source: The files that the plans' indices point into.
        graph: Builds the pipeline from its input callback and DALI's own arguments.
        feed: What the graph's external source takes for a plan.
        plans: The batches, in order; may be endless.
        batch_size: The largest batch.
        maker: Where, by how many threads (for reading, decoding and CPU operators), how far ahead.
    """

    def __init__(
        self,
        source: ImageSource,
        graph: Callable[..., Any],
        feed: Callable[[Plan], list[Any]],
        plans: Iterator[Plan],
        batch_size: int,
        maker: Maker,
    ) -> None:
        self._source = source
        self._feed_of = feed
        self._plans = plans
        self._in_flight: deque[Plan] = deque()
        self._on_gpu = maker.device == "gpu"
        self._pipeline = graph(
            source=self._feed,
            device=maker.device,
            batch_size=batch_size,
            num_threads=maker.num_threads,
            device_id=torch.cuda.current_device() if self._on_gpu else None,
            prefetch_queue_depth=maker.prefetch,
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
        return self._feed_of(plan)

    def _explained(self, error: RuntimeError) -> Exception:
        """DALI names some bad files and not others; PIL finds the rest."""
        for plan in self._in_flight:
            for index in map(int, plan.indices):
                path = self._source.path(index)
                reason = why_unreadable(path)
                if reason:
                    return bad_image(path, index, reason)
        return error


def encoded_paths(source: ImageSource, indices: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    """Paths as DALI's file reader takes them."""
    return [np.frombuffer(os.fsencode(source.path(int(index))), dtype=np.uint8) for index in indices]
