"""Compute which rank sees which sample at which step. This is arithmetic only.

An epoch is one permutation of its samples (see orders.py). Step s takes the s-th global batch of the permutation, and
each rank takes its slice of that batch. Therefore:

- The ranks' shares are disjoint.
- Every rank has the same number of steps.
- Only the last incomplete global batch is dropped.
- The global batch of a step is the same for any number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.orders import Order


@dataclass(frozen=True)
class Shards:
    """One rank's share of every epoch.

    Args:
        order: Order of the samples of each epoch.
        batch_size_per_rank: Number of samples per rank and step, 1 or more.
        rank: Rank, 0 to world_size - 1.
        world_size: Number of ranks.

    Raises:
        ValueError: If a value is out of range, or there are fewer samples than one global batch.
    """

    order: Order
    batch_size_per_rank: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size_per_rank < 1:
            raise ValueError(f"batch_size_per_rank: {self.batch_size_per_rank} is not allowed; it must be at least 1")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank: {self.rank} is not allowed with world_size {self.world_size}; it must be 0 to world_size - 1"
            )
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"{len(self.order)} images do not fill one global batch of {self.global_batch_size}"
                f" ({self.world_size} x {self.batch_size_per_rank}); use a smaller batch or more images"
            )

    @property
    def global_batch_size(self) -> int:
        return self.batch_size_per_rank * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        return len(self.order) // self.global_batch_size

    @property
    def slots(self) -> slice:
        """This rank's rows of the global batch."""
        return slice(self.rank * self.batch_size_per_rank, (self.rank + 1) * self.batch_size_per_rank)

    def indices(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return the positions of the samples of this rank's batch, (batch_size_per_rank,) int64.

        Args:
            epoch: Number of the epoch, 0 or more.
            step: Number of the step in the epoch, 0 to steps_per_epoch - 1.
        """
        return self.order.epoch(epoch)[self.uses(step)][self.slots]

    def uses(self, step: int) -> slice:
        """Return where the global batch of a step is in the order of its epoch.

        Args:
            step: Number of the step in the epoch, 0 to steps_per_epoch - 1.
        """
        assert 0 <= step < self.steps_per_epoch, "a step of the epoch"
        return slice(step * self.global_batch_size, (step + 1) * self.global_batch_size)


def eval_indices(n_samples: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> list[NDArray[np.int64]]:
    """Return the positions of the samples of each batch, for one pass over every sample, in order.

    The last batch may be smaller. Ranks may have different numbers of batches. With fewer samples than ranks, some
    ranks have none.

    Args:
        n_samples: Number of samples of the whole data set.
        batch_size: Largest number of samples per batch.
        rank: Rank, 0 to world_size - 1. Rank r takes the samples r, r + world_size, ...
        world_size: Number of ranks.
    """
    mine = np.arange(rank, n_samples, world_size, dtype=np.int64)
    return [mine[first : first + batch_size] for first in range(0, len(mine), batch_size)]
