"""Choose what computes the views: DALI or the native backend, on which device, with how many threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from dali_pipelines.ranks import cores_per_rank
from dali_pipelines.views.params import MOST_PIXELS, Tuning

BackendName = Literal["auto", "dali", "native"]
Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class Backend:
    """What computes the views, where, and how far ahead.

    Args:
        name: "dali", or "native": torch and numba, which compute the same views without DALI, several times faster on
            a CPU. "auto" is DALI on a GPU and native on a CPU. They differ by rounding (docs/design.md).
        device: Where the views are computed. "auto" is "gpu" where torch sees one.
        num_threads: Threads that compute them. Default: this process's share of the cores.
        prefetch: Batches computed ahead, 1 or more.
        max_pixels: Height times width of an encoded image. A larger one is a bad file, and is not decoded.
        tuning: Details of DALI's graph.

    Raises:
        ValueError: For a value out of range; the message names it.
    """

    name: BackendName = "auto"
    device: Device = "auto"
    num_threads: int | None = None
    prefetch: int = 2
    max_pixels: int = MOST_PIXELS
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        if self.name not in ("auto", "dali", "native"):
            raise ValueError(f"backend: {self.name!r} is not allowed; it must be auto, dali or native")
        if self.device not in ("auto", "cpu", "gpu"):
            raise ValueError(f"device: {self.device!r} is not allowed; it must be auto, cpu or gpu")
        if self.name == "native" and self.device == "gpu":
            raise ValueError("backend: native is not allowed with device gpu; take auto or dali")
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"num_threads: {self.num_threads} is not allowed; it must be at least 1")
        if self.prefetch < 1:
            raise ValueError(f"prefetch: {self.prefetch} is not allowed; it must be at least 1")
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise ValueError(
                f"max_pixels: {self.max_pixels} is not allowed; it must be 1 to {MOST_PIXELS}, as many as PIL opens"
            )

    def resolve(self) -> ResolvedBackend:
        """Choose for this machine: the GPU where torch sees one, and DALI where the views are computed on it.

        Raises:
            ValueError: If this machine does not have what is asked for.
        """
        has_gpu = torch.cuda.is_available()
        if self.device == "gpu" and not has_gpu:
            raise ValueError("device: gpu is not allowed here, torch sees no CUDA device; take auto or cpu")
        on_gpu = has_gpu and self.device != "cpu" and self.name != "native"
        by_dali = on_gpu or self.name == "dali"
        if self.tuning is not None and not by_dali:
            raise ValueError("tuning: is of DALI's graph, and the views are made by backend native; leave it out")
        return ResolvedBackend(
            name="dali" if by_dali else "native",
            device="gpu" if on_gpu else "cpu",
            num_threads=self.num_threads or cores_per_rank(),
            prefetch=self.prefetch,
            max_pixels=self.max_pixels,
            tuning=self.tuning or Tuning(),
        )


class ResolvedBackend(NamedTuple):
    """A Backend, as it is on this machine."""

    name: Literal["dali", "native"]
    device: Literal["cpu", "gpu"]
    num_threads: int
    prefetch: int
    max_pixels: int
    tuning: Tuning


def resolve_backend(backend: Backend | BackendName) -> ResolvedBackend:
    """Resolve a Backend, or the name of one with defaults.

    Raises:
        ValueError: As for Backend.
    """
    return (backend if isinstance(backend, Backend) else Backend(backend)).resolve()
