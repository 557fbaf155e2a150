"""This process's rank, the number of ranks, and its share of the cores, as the launcher sets them."""

from __future__ import annotations

import os


def rank_and_world_size(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """Return this process's rank and the number of ranks.

    Args:
        rank: Rank that is returned as it is. None: the rank of torch.distributed, else $RANK, else 0.
        world_size: Number of ranks that is returned as it is. None: the size of torch.distributed, else $WORLD_SIZE,
            else 1.

    Raises:
        ValueError: If an environment variable is not a whole number.
    """
    from torch import distributed

    grouped = distributed.is_available() and distributed.is_initialized()
    if rank is None:
        rank = distributed.get_rank() if grouped else number_from_environment("RANK", 0)
    if world_size is None:
        world_size = distributed.get_world_size() if grouped else number_from_environment("WORLD_SIZE", 1, least=1)
    return rank, world_size


def cores_per_rank() -> int:
    """Return this process's share of the cores, at least 1: the usable cores divided by the ranks of this machine.

    Raises:
        ValueError: If $LOCAL_WORLD_SIZE is not a whole number above 0.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // number_from_environment("LOCAL_WORLD_SIZE", 1, least=1))


def number_from_environment(name: str, default: int, *, least: int = 0) -> int:
    """Return the whole number in an environment variable.

    Args:
        name: Name of the variable.
        default: Number that is returned if the variable is not set.
        least: Smallest number that is allowed.

    Raises:
        ValueError: If the variable is not a whole number of at least `least`.
    """
    text = os.environ.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise ValueError(
            f"${name}={text[:40]!r} is not allowed; it must be a whole number of at least {least}. Unset it, or start"
            " the processes with `accelerate launch`"
        )
    return int(text)
