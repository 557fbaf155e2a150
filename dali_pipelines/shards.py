"""Which sample is seen when, and by which rank: arithmetic only.

An epoch is one permutation of all samples. Step s takes the s-th global batch of it, and a rank its
slice of that batch. So shards are disjoint, every rank makes the same number of steps, only the last
incomplete global batch is dropped, and the global batch of a step is the same for any number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shards:
    """One rank's part of every epoch.

    Args:
        n_samples: Of the whole data set.
        batch_size_per_rank: Samples a rank takes each step.
        rank: 0 to world_size - 1.
        world_size: Number of ranks.
        seed: Of the permutations; the same on every rank.

    Raises:
        ValueError: If the rank is not in the world, or an epoch would have no step.
    """

    n_samples: int
    batch_size_per_rank: int
    rank: int = 0
    world_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size_per_rank < 1:
            raise ValueError(f"batch_size_per_rank: {self.batch_size_per_rank} is not allowed; it must be at least 1")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank: {self.rank} is not in a world of {self.world_size}; ranks count from 0")
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is not allowed; it must be 0 or more")
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"{self.n_samples} images do not fill one global batch of {self.global_batch_size}"
                f" ({self.world_size} x {self.batch_size_per_rank}); take a smaller batch or more images"
            )

    @property
    def global_batch_size(self) -> int:
        return self.batch_size_per_rank * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        return self.n_samples // self.global_batch_size

    @property
    def slots(self) -> slice:
        """This rank's rows of the global batch."""
        return slice(self.rank * self.batch_size_per_rank, (self.rank + 1) * self.batch_size_per_rank)

    def indices(self, epoch: int, step: int) -> NDArray[np.int64]:
        """The samples of this rank's batch, shape (batch_size_per_rank,)."""
        assert 0 <= step < self.steps_per_epoch, "a step of the epoch"
        order = _epoch_order(self.n_samples, self.seed, epoch)
        first = step * self.global_batch_size
        return order[first : first + self.global_batch_size][self.slots]


# Two, because a loader prefetches the next epoch's first batches before this epoch's last are used.
@lru_cache(maxsize=2)
def _epoch_order(n_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(n_samples)


def eval_indices(n_samples: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> list[NDArray[np.int64]]:
    """The batches of one pass over every sample exactly once, in order; the last may be smaller.

    Ranks may have a different number of batches, and one with fewer samples than ranks none at all.
    """
    mine = np.arange(rank, n_samples, world_size, dtype=np.int64)
    return [mine[first : first + batch_size] for first in range(0, len(mine), batch_size)]
