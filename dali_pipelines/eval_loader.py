"""Load every image once, as its evaluation view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from dali_pipelines.plans import Plan, announced
from dali_pipelines.ranks import rank_and_world_size
from dali_pipelines.shards import eval_indices
from dali_pipelines.sources import ImageSource, Upcoming, open_source
from dali_pipelines.sources.arrays import check_range_known
from dali_pipelines.streams import eval_stream
from dali_pipelines.views.channels import check_channels
from dali_pipelines.views.params import EvalParams


class EvalBatch(NamedTuple):
    """One batch of evaluation views.

    Attributes:
        images: Evaluation views, one per image.
        targets: Labels; -1 where the source has no labels.
        filenames: Names of the images, as the source has them: relative to its folder, SHARD/MEMBER, or numbers.

    Shape:
        - images: (n, C, size_px, size_px) float32, channels_last, on the loader's device. n is batch_size, or less in
          the last batch.
        - targets: (n,) int64, on the CPU.
        - filenames: n strings.
    """

    images: Tensor
    targets: Tensor
    filenames: list[str]


class EvalLoader:
    """Iterate over every image once, in order, as its evaluation view.

    Args:
        source: Source of the images, or a path or a list of paths (see open_source).
        batch_size: Number of images per batch of this rank, 1 or more. The last batch may be smaller.
        params: Evaluation view. Default: EvalParams(), which resizes to 256 px and crops 224 px.
        backend: Backend that computes the views, or its name: "auto", "dali" or "native".
        rank: Rank of this process, as for TwoViewLoader. Rank r loads the images r, r + world_size, ...
        world_size: Number of ranks, as for TwoViewLoader.
        max_bad_files: Number of unreadable images that are replaced, 0 or more. With the default, 0, the first one
            raises BadImageError, because an evaluation must cover exactly the images of its source.

    Raises:
        ValueError: If an argument is out of range; the message names it.
        ImportError: If DALI must compute the views and is not installed.

    Examples:
        >>> loader = EvalLoader("images/", batch_size=256, params=PRESETS["barlow_twins"].eval_params())
        >>> for images, targets, filenames in loader:
        ...     features = backbone(images)
    """

    def __init__(
        self,
        source: ImageSource | str | Path | Sequence[str | Path],
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
        check_range_known(self.source)
        self._params = params or EvalParams()
        check_channels(self._params, self.source.channels)
        self._batch_size = batch_size
        self._backend = resolve_backend(backend)
        samples = min(batch_size, len(self.source))
        in_float = self.source.views_in_float
        check_memory([self._params], samples=samples, backend=self._backend, in_float=in_float)
        self.bad_files = BadFiles(len(self.source), max_bad_files) if max_bad_files else None
        self._given = rank, world_size

    def __len__(self) -> int:
        """Return the number of batches of this rank."""
        return len(self._batches())

    def __iter__(self) -> Iterator[EvalBatch]:
        batches = self._batches()
        done = 0
        while done < len(batches):
            steps = announced(
                self.source,
                range(done, len(batches)),
                lambda number: self._upcoming(batches[number], number),
                images_per_step=self._batch_size,
            )
            plans = (Plan(self._good(batches[number])) for number in steps)
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

    def _upcoming(self, indices: NDArray[np.int64], number: int) -> Upcoming:
        first_use = number * self._batch_size
        # Whether and when there is another pass over the images is not known here.
        next_use = first_use + len(self.source) + np.arange(len(indices))
        return Upcoming(self._good(indices), indices, first_use, next_use)

    def _batches(self) -> list[NDArray[np.int64]]:
        rank, world_size = rank_and_world_size(*self._given)
        return eval_indices(len(self.source), batch_size=self._batch_size, rank=rank, world_size=world_size)
