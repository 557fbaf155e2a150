"""Choose what computes the views: DALI or the native backend, on which device, with how many threads."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

from dali_pipelines.ranks import cores_per_rank
from dali_pipelines.views.params import MOST_PIXELS, Tuning

Device = Literal["auto", "cpu", "gpu"]


Backend = Literal["auto", "dali", "native"]


class Maker(NamedTuple):
    """How batches are made; num_threads, prefetch, max_pixels and tuning as in the loaders."""

    backend: Literal["dali", "native"]
    device: Literal["cpu", "gpu"]
    num_threads: int
    prefetch: int
    max_pixels: int
    tuning: Tuning


def resolve_maker(
    backend: Backend,
    device: Device,
    num_threads: int | None,
    prefetch: int,
    max_pixels: int,
    tuning: Tuning | None = None,
) -> Maker:
    """Takes the GPU where torch sees one, and DALI where the views are made on it.

    Raises:
        ValueError: If the two do not fit together, or what is asked for is not there.
    """
    if backend not in ("auto", "dali", "native"):
        raise ValueError(f"backend: {backend!r} is not allowed; it must be auto, dali or cpu")
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device: {device!r} is not allowed; it must be auto, cpu or gpu")
    if backend == "native" and device == "gpu":
        raise ValueError("backend: native is not allowed with device gpu; take auto or dali")
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads: {num_threads} is not allowed; it must be at least 1")
    if prefetch < 1:
        raise ValueError(f"prefetch: {prefetch} is not allowed; it must be at least 1")
    if not 1 <= max_pixels <= MOST_PIXELS:
        raise ValueError(
            f"max_pixels: {max_pixels} is not allowed; it must be 1 to {MOST_PIXELS}, as many as PIL opens"
        )
    has_gpu = torch.cuda.is_available()
    if device == "gpu" and not has_gpu:
        raise ValueError("device: gpu is not allowed here, torch sees no CUDA device; take auto or cpu")
    on_gpu = has_gpu and device != "cpu" and backend != "native"
    by_dali = on_gpu or backend == "dali"
    if tuning is not None and not by_dali:
        raise ValueError("tuning: is of DALI's graph, and the views are made by backend native; leave it out")
    return Maker(
        "dali" if by_dali else "native",
        "gpu" if on_gpu else "cpu",
        num_threads or cores_per_rank(),
        prefetch,
        max_pixels,
        tuning or Tuning(),
    )
