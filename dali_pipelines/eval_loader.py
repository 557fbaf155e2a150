"""Load every image once, in its evaluation view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipelines.backend import Backend, BackendName, resolve_backend
from dali_pipelines.decoding.bad_files import BadFiles
from dali_pipelines.errors import BadImageError
from dali_pipelines.memory import check_memory
from dali_pipelines.plans import Plan
from dali_pipelines.ranks import rank_and_world_size
from dali_pipelines.shards import eval_indices
from dali_pipelines.sources import ImageSource, open_source
from dali_pipelines.streams import eval_stream
from dali_pipelines.views.channels import check_channels
from dali_pipelines.views.params import EvalParams


class EvalBatch(NamedTuple):
    """A batch of the evaluation view: images (n, C, H, W), the rest as in Batch."""

    images: Tensor
    targets: Tensor
    filenames: list[str]


class EvalLoader:
    """Every image once, in order, in its evaluation view.

    Args:
        source: The images, or where they are.
        batch_size: Of this rank; the last batch may be smaller.
        params: The view.
        backend: As for TwoViewLoader.
        rank: As for TwoViewLoader; rank r takes the images r, r + world_size, ...
        world_size: As for TwoViewLoader.
        max_bad_files: As for TwoViewLoader, but none by default: an evaluation is of the images that it names.

    Raises:
        ValueError: For an argument out of range.
        ImportError: If DALI is to make the views and is not installed.
    """

    def __init__(
        self,
        source: ImageSource | str | Path,
        batch_size: int,
        params: EvalParams | None = None,
        *,
        backend: Backend | BackendName = "auto",
        rank: int | None = None,
        world_size: int | None = None,
        max_bad_files: int = 0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} is not allowed; it must be at least 1")
        self.source = source if isinstance(source, ImageSource) else open_source(source)
        self._params = params or EvalParams()
        check_channels(self._params, self.source.channels)
        self._batch_size = batch_size
        self._backend = resolve_backend(backend)
        samples = min(batch_size, len(self.source))
        check_memory([self._params], samples=samples, prefetch=self._backend.prefetch, device=self._backend.device)
        self.bad_files = BadFiles(len(self.source), max_bad_files) if max_bad_files else None
        self._given = rank, world_size

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self._batches())

    def __iter__(self) -> Iterator[EvalBatch]:
        batches = self._batches()
        done = 0
        while done < len(batches):
            plans = (Plan(self._good(indices)) for indices in batches[done:])
            try:
                stream = eval_stream(
                    self.source, self._params, plans=plans, batch_size=self._batch_size, backend=self._backend
                )
                for plan, (images,) in stream:
                    done += 1
                    targets = torch.from_numpy(self.source.labels[plan.indices])
                    yield EvalBatch(images, targets, [self.source.names[index] for index in plan.indices])
            except BadImageError as error:
                if self.bad_files is None:
                    raise
                self.bad_files.add(error)

    def _good(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return indices if self.bad_files is None else self.bad_files.replaced(indices)

    def _batches(self) -> list[NDArray[np.int64]]:
        rank, world_size = rank_and_world_size(*self._given)
        return eval_indices(len(self.source), batch_size=self._batch_size, rank=rank, world_size=world_size)
