"""Model the time of collectives with ring algorithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Network(NamedTuple):
    """The rates of the network that connects the ranks.

    Args:
        latency_s: Latency of a hop, in s.
        bytes_per_s: Bytes per second that a rank sends, while it receives as many.
        is_shared: Whether all ranks share bytes_per_s, as ranks that copy with the same cores.
        as_tree: Whether the number of hops grows with the logarithm of the number of ranks, as NCCL's does for many
            ranks. Otherwise it grows with the number of ranks.
    """

    latency_s: float
    bytes_per_s: float
    is_shared: bool = False
    as_tree: bool = False

    def all_reduce_s(self, size: float, world_size: int) -> float:
        """Return the seconds of an all-reduce.

        Args:
            size: Bytes of the tensor, which every rank has.
            world_size: Number of ranks.
        """
        return 2 * self._hops_s(world_size) + self._sending_s(reduced_bytes(size, world_size), world_size)

    def all_gather_s(self, part: float, world_size: int) -> float:
        """Return the seconds of an all-gather.

        Args:
            part: Bytes of each rank.
            world_size: Number of ranks.
        """
        return self._hops_s(world_size) + self._sending_s(gathered_bytes(part, world_size), world_size)

    def _hops_s(self, world_size: int) -> float:
        return self.latency_s * (math.ceil(math.log2(world_size)) if self.as_tree else world_size - 1)

    def _sending_s(self, sent: float, world_size: int) -> float:
        return sent / self.bytes_per_s * (world_size if self.is_shared else 1)


def reduced_bytes(size: float, world_size: int) -> float:
    """Return the bytes that a rank sends for an all-reduce."""
    return 2 * (world_size - 1) / world_size * size


def gathered_bytes(part: float, world_size: int) -> float:
    """Return the bytes that a rank sends for an all-gather."""
    return (world_size - 1) * part


def fitted(points: Sequence[tuple[float, float, float]]) -> Network:
    """Fit the network of ranks on one machine by least relative squares.

    Args:
        points: Measurements (hops, bytes that all ranks send together, seconds).
    """
    # The equations are seconds = hops * latency + sent * per_byte. Each is divided by its seconds.
    rows = [(hops / s, sent / s) for hops, sent, s in points]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = (sum(row[i] for row in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    return Network((a * bb - b * ab) / determinant, determinant / (b * aa - a * ab), is_shared=True)
