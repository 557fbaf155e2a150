"""Runs a DALI graph over a planned sequence of batches, and keeps the plan beside the pixels."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipelines.backends import Maker
from dali_pipelines.decoding import bad_image, why_unreadable
from dali_pipelines.plans import Plan
from dali_pipelines.sources import ImageSource

# Of images that are no files of their own, a rank. They wait for storage rather than compute.
_READERS = 8


class _Ahead(NamedTuple):
    plan: Plan
    images: list[NDArray[np.uint8]] | list[Future[NDArray[np.uint8]]]


class Stream:
    """The batches of a plan, made ahead by DALI's threads.

    Args:
        source: What the plans' indices point into.
        graph: Builds the pipeline from its input callback and DALI's own arguments.
        draws_of: What the graph's external source takes for a plan, after the images.
        plans: The batches, in order; may be endless.
        batch_size: The largest batch.
        maker: Where, by how many threads (for reading, decoding and CPU operators), how far ahead.
    """

    def __init__(
        self,
        source: ImageSource,
        graph: Callable[..., Any],
        draws_of: Callable[[Plan], list[Any]],
        plans: Iterator[Plan],
        batch_size: int,
        maker: Maker,
    ) -> None:
        self._source = source
        self._draws_of = draws_of
        self._plans = plans
        self._maker = maker
        # DALI reads files by their paths; what else there is to read is read here.
        self._readers = ThreadPoolExecutor(_READERS, "dali_pipelines") if source.kind != "files" else None
        self._ahead: deque[_Ahead] = deque()
        self._in_flight: deque[Plan] = deque()
        self._on_gpu = maker.device == "gpu"
        self._pipeline = graph(
            source=self._feed,
            kind=source.kind,
            max_pixels=maker.max_pixels,
            tuning=maker.tuning,
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
            The plan, and the graph's views.

        Shape:
            Views: (n, C, H, W) float32 in channels_last, DALI's own memory, safe to hold.

        Raises:
            BadImageError: If an image cannot be read or decoded, or is too large; the message names it.
        """
        try:
            # On the GPU DALI then orders its work before whatever torch queues on its current stream.
            outputs = self._pipeline.run(torch.cuda.current_stream()) if self._on_gpu else self._pipeline.run()
        except RuntimeError as error:
            raise self._explained(self._in_flight, error) from error
        plan = self._in_flight.popleft()
        *views, refused = outputs
        if np.any(refused.as_array()):
            raise self._explained([plan], AssertionError("a refused image is found again"))
        return plan, tuple(torch.from_dlpack(view.as_tensor()).permute(0, 3, 1, 2) for view in views)

    def restart(self, plans: Iterator[Plan]) -> None:
        """Goes on with other plans; the batches already under way are thrown away."""
        self._plans = plans
        self._ahead.clear()
        for _ in range(len(self._in_flight)):
            next(self)

    def _feed(self) -> list[Any]:
        """DALI's input callback, called in the thread that runs the pipeline."""
        while len(self._ahead) < 1 + self._maker.prefetch and (plan := next(self._plans, None)) is not None:
            self._ahead.append(_Ahead(plan, self._begin(plan)))
        if not self._ahead:
            raise StopIteration
        plan, images = self._ahead.popleft()
        self._in_flight.append(plan)
        read = [image.result() if isinstance(image, Future) else image for image in images]
        return [read, *self._draws_of(plan)]

    def _begin(self, plan: Plan) -> list[NDArray[np.uint8]] | list[Future[NDArray[np.uint8]]]:
        indices = plan.indices.tolist()
        if self._readers is None:
            # As DALI's file reader takes them.
            return [np.frombuffer(os.fsencode(self._source.place(index)), dtype=np.uint8) for index in indices]
        return [self._readers.submit(self._read, index) for index in indices]

    def _read(self, index: int) -> NDArray[np.uint8]:
        try:
            return self._source.read(index)
        except Exception as error:
            raise bad_image(self._source, index, error) from error

    def _explained(self, plans: Iterable[Plan], error: Exception) -> Exception:
        """DALI names some bad files and not others; PIL finds the rest."""
        for plan in plans:
            for index in plan.indices.tolist():
                reason = why_unreadable(self._source, index, self._maker.max_pixels)
                if reason:
                    return bad_image(self._source, index, reason)
        return error
