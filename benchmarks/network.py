"""What collectives cost by ring algorithms: a model of a network, and its rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Network(NamedTuple):
    """Rates of what connects the ranks.

    Args:
        latency_s: Of a hop.
        bytes_per_s: That a rank sends, while it receives as much.
        is_shared: Whether these are of all ranks together, as where they copy by the same cores.
        as_tree: Whether hops grow with the logarithm of the ranks, as NCCL's do for many, and not with their number.
    """

    latency_s: float
    bytes_per_s: float
    is_shared: bool = False
    as_tree: bool = False

    def all_reduce_s(self, size: float, world_size: int) -> float:
        """Of a tensor of so many bytes, which every rank has."""
        return 2 * self._hops_s(world_size) + self._sending_s(reduced_bytes(size, world_size), world_size)

    def all_gather_s(self, part: float, world_size: int) -> float:
        """Of so many bytes from each rank."""
        return self._hops_s(world_size) + self._sending_s(gathered_bytes(part, world_size), world_size)

    def _hops_s(self, world_size: int) -> float:
        return self.latency_s * (math.ceil(math.log2(world_size)) if self.as_tree else world_size - 1)

    def _sending_s(self, sent: float, world_size: int) -> float:
        return sent / self.bytes_per_s * (world_size if self.is_shared else 1)


def reduced_bytes(size: float, world_size: int) -> float:
    """That a rank sends for an all-reduce."""
    return 2 * (world_size - 1) / world_size * size


def gathered_bytes(part: float, world_size: int) -> float:
    """That a rank sends for an all-gather."""
    return (world_size - 1) * part


def fitted(points: Sequence[tuple[float, float, float]]) -> Network:
    """Of ranks on one machine, from (hops, bytes that all send together, seconds), by least relative squares."""
    # seconds = hops * latency + sent * per_byte, each equation divided by its seconds.
    rows = [(hops / s, sent / s) for hops, sent, s in points]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = (sum(row[i] for row in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    return Network((a * bb - b * ab) / determinant, determinant / (b * aa - a * ab), is_shared=True)
