"""Run a DALI graph over planned batches, and return each batch with its plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dali_pipelines.backend import ResolvedBackend
from dali_pipelines.dali.deep_images import deep_of, files_and_pixels
from dali_pipelines.decoding.read_pixels import bad_image, for_dali, read, why_unreadable
from dali_pipelines.depth.source import FullDepthSource
from dali_pipelines.errors import BadImageError, StorageError
from dali_pipelines.plans import Plan
from dali_pipelines.sources import ImageSource
from dali_pipelines.sources.base import Content

# Threads per rank that read images. They mostly wait for storage, so they may be more than the cores.
_READERS = 8


class _Ahead(NamedTuple):
    plan: Plan
    images: list[Future[Content]]


class DaliStream:
    """Iterate over planned batches, which DALI's threads compute ahead.

    Args:
        source: Source of the images, which the plans' indices refer to.
        graph: Function that builds the pipeline from its input callback and DALI's own arguments.
        draws_of: Function that returns the graph's inputs for a plan, after the images.
        plans: Plans of the batches, in order; may be endless.
        batch_size: Largest number of samples per batch.
        backend: Device, prefetch, limits, and the number of threads for decoding and CPU operators.
        finish: Function that turns the graph's outputs of a plan into views, if the graph ends before. It gets them as
            (n, H, W, C), and queues its work on the current CUDA stream.
    """

    def __init__(
        self,
        source: ImageSource,
        graph: Callable[..., Any],
        *,
        draws_of: Callable[[Plan], list[Any]],
        plans: Iterator[Plan],
        batch_size: int,
        backend: ResolvedBackend,
        finish: Callable[[Plan, tuple[Tensor, ...]], tuple[Tensor, ...]] | None = None,
    ) -> None:
        self._source = source
        self._draws_of = draws_of
        self._plans = plans
        self._backend = backend
        self._finish = finish or _channels_first
        self._readers = ThreadPoolExecutor(_READERS, "dali_pipelines")
        self._ahead: deque[_Ahead] = deque()
        self._in_flight: deque[Plan] = deque()
        self._on_gpu = backend.device == "gpu"
        self._deep = deep_of(source)
        # Images that DALI refuses though they are read on the host.
        self._on_host: set[int] = set()
        self._build = partial(
            graph,
            source=self._feed,
            kind="pixels" if source.kind == "pixels" else "encoded",
            deep=self._deep,
            max_pixels=backend.max_pixels,
            tuning=backend.tuning,
            device=backend.device,
            batch_size=batch_size,
            num_threads=backend.num_threads,
            device_id=torch.cuda.current_device() if self._on_gpu else None,
            prefetch_queue_depth=backend.prefetch,
        )
        self._pipeline = self._build()

    def __iter__(self) -> Iterator[tuple[Plan, tuple[Tensor, ...]]]:
        return self

    def __next__(self) -> tuple[Plan, tuple[Tensor, ...]]:
        """Return the next batch.

        Returns:
            The plan, and its views.

        Shape:
            Views: (n, C, H, W) float32 or float16 in channels_last. They are safe to keep, also if they are DALI's
            own memory.

        Raises:
            BadImageError: If an image cannot be read or decoded, or is too large; the message names it.
            StorageError: If the storage does not answer.
        """
        plan, outputs = self._take()
        return plan, self._finish(plan, outputs)

    def restart(self, plans: Iterator[Plan]) -> None:
        """Continue with other plans, and drop the batches that are computed ahead.

        Args:
            plans: Plans of the next batches, in order.
        """
        self._plans = plans
        self._ahead.clear()
        for _ in range(len(self._in_flight)):
            self._take()

    def _take(self) -> tuple[Plan, tuple[Tensor, ...]]:
        """Return the next plan, and the graph's outputs for it, (n, H, W, C)."""
        try:
            # With torch's current stream, DALI orders its work before whatever torch queues on that stream.
            outputs = self._pipeline.run(torch.cuda.current_stream()) if self._on_gpu else self._pipeline.run()
        except RuntimeError as error:
            if bad := self._bad_image_in(list(self._in_flight)):
                raise bad from error
            if not self._decode_on_host():
                raise
            return self._take()
        plan = self._in_flight.popleft()
        *views, refused = outputs
        if np.any(refused.as_array()):
            bad = self._bad_image_in([plan])
            assert bad, "a refused image is found again"
            raise bad
        return plan, tuple(torch.from_dlpack(view.as_tensor()) for view in views)

    def _feed(self) -> list[Any]:
        """Return the inputs of one batch. DALI calls this in the thread that runs the pipeline."""
        while len(self._ahead) < 1 + self._backend.prefetch and (plan := next(self._plans, None)) is not None:
            self._ahead.append(_Ahead(plan, self._begin(plan)))
        if not self._ahead:
            raise StopIteration
        plan, images = self._ahead.popleft()
        self._in_flight.append(plan)
        contents = [image.result() for image in images]
        given = [contents] if self._deep is None else files_and_pixels(contents)
        return [*given, *self._draws_of(plan)]

    def _begin(self, plan: Plan) -> list[Future[Content]]:
        return [self._readers.submit(self._read, index) for index in plan.indices.tolist()]

    def _read(self, index: int) -> Content:
        try:
            if isinstance(self._source, FullDepthSource) and self._deep is not None and index not in self._on_host:
                return self._source.read_for_dali(index)
            content = read(self._source, index)
            if self._source.kind == "pixels":
                return content
            return for_dali(content, self._backend.max_pixels, always=index in self._on_host)
        except StorageError:
            raise
        except Exception as error:  # PIL raises whatever its decoders raise
            raise bad_image(self._source, index, error) from error

    def _bad_image_in(self, plans: list[Plan]) -> BadImageError | None:
        """Return the error of the first bad image, or None. DALI does not name every bad file, so all are read here."""
        for plan in plans:
            for index in plan.indices.tolist():
                if reason := why_unreadable(self._source, index, self._backend.max_pixels):
                    return bad_image(self._source, index, reason)
        return None

    def _decode_on_host(self) -> bool:
        """Start the batches in flight again, decoded on the host, because DALI does not name the image that it refuses.

        Returns:
            False if they were already decoded on the host. Then the error has another cause.
        """
        plans = list(self._in_flight)
        indices = {index for plan in plans for index in plan.indices.tolist()}
        if (self._source.kind == "pixels" and self._deep is None) or indices <= self._on_host:
            return False
        self._on_host |= indices
        self._in_flight.clear()
        self._ahead.extendleft(_Ahead(plan, self._begin(plan)) for plan in reversed(plans))
        self._pipeline = self._build()
        return True


def _channels_first(plan: Plan, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(view.permute(0, 3, 1, 2) for view in views)
