"""Model the time of collectives with ring algorithms."""

from __future__ import annotations

import math
from typing import NamedTuple

# An NDR InfiniBand card sends 50 GB/s each way, with one card per GPU (NVIDIA's data sheet).
CARD_GB_S = 50.0
# Latency of a hop. No measurement.
LATENCY_US = 10.0


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

    def reduce_scatter_s(self, size: float, world_size: int) -> float:
        """Return the seconds of a reduction of which each rank gets its part.

        Args:
            size: Bytes of the tensor, which every rank has.
            world_size: Number of ranks.
        """
        return self._hops_s(world_size) + self._sending_s(reduced_bytes(size, world_size) / 2, world_size)

    def _hops_s(self, world_size: int) -> float:
        return self.latency_s * (math.ceil(math.log2(world_size)) if self.as_tree else world_size - 1)

    def _sending_s(self, sent: float, world_size: int) -> float:
        return sent / self.bytes_per_s * (world_size if self.is_shared else 1)


def cluster(
    *,
    link_gb_s: float,
    gpus_per_node: int,
    world_size: int,
    card_gb_s: float = CARD_GB_S,
    latency_us: float = LATENCY_US,
) -> Network:
    """Return the network of a cluster.

    Rings go through all GPUs of a node. They leave the node over as many cards, each with its share of the data.

    Args:
        link_gb_s: Bandwidth of a GPU within its node, each way, in GB/s.
        gpus_per_node: GPUs of a node.
        world_size: Number of ranks, one on each GPU.
        card_gb_s: Bandwidth of a GPU to other nodes, each way, in GB/s.
        latency_us: Latency of a hop, in us.
    """
    is_one_node = world_size <= gpus_per_node
    gb_s = link_gb_s if is_one_node else min(link_gb_s, card_gb_s * gpus_per_node)
    return Network(latency_us * 1e-6, gb_s * 1e9, as_tree=True)


def reduced_bytes(size: float, world_size: int) -> float:
    """Return the bytes that a rank sends for an all-reduce."""
    return 2 * (world_size - 1) / world_size * size


def gathered_bytes(part: float, world_size: int) -> float:
    """Return the bytes that a rank sends for an all-gather."""
    return (world_size - 1) * part
