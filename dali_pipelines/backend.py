"""Choose what computes the views: DALI or the native backend, on which device, with how many threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from dali_pipelines.ranks import cores_per_rank
from dali_pipelines.views.params import MOST_PIXELS, Tuning

BackendName = Literal["auto", "dali", "native"]
Device = Literal["auto", "cpu", "gpu"]
Augment = Literal["auto", "dali", "fused"]


@dataclass(frozen=True)
class Backend:
    """The settings of the code that computes the views: backend, device, threads and prefetch.

    Args:
        name: Backend: "dali", "native" or "auto". "native" uses torch and numba instead of DALI. It computes the same
            views up to rounding (docs/design.md), and is several times faster on a CPU. "auto" is DALI on a GPU and
            native on a CPU.
        device: Device that has the views: "cpu", "gpu" or "auto". "auto" is "gpu" if torch sees a CUDA device, and
            "cpu" for the native backend. With "gpu" that backend computes views on the CPU, copies them to the GPU and
            normalizes them there.
        num_threads: Number of threads that compute the views, 1 or more. Default: this process's share of the cores.
        prefetch: Number of batches that are computed ahead, 1 or more.
        max_pixels: Largest height times width of an encoded image, in pixels, 1 to 178,956,970. A larger image counts
            as a bad file and is not decoded.
        tuning: Settings of DALI's graph. Allowed only if DALI computes the views.
        augment: Augmentation after the crop and the resize. "fused" is four Triton kernels on a GPU (docs/design.md).
            "dali" is DALI's operators, or the CPU's kernel of the native backend. The kernels have not yet run on a
            GPU, so "auto" is "dali" for now. "fused" is allowed only for RGB images of 8 bits.
        on_device: Whether all training images are kept on the GPU, which crops, resizes and augments them by kernels.
            Allowed only for images that are one array of RGB pixels and fill at most half of its memory. This has not
            yet run on a GPU, so "auto" is False for now.

    Raises:
        ValueError: If a value is out of range; the message names the setting.

    Examples:
        >>> TwoViewLoader("images/", batch_size_per_rank=256, backend=Backend("native", num_threads=8))
    """

    name: BackendName = "auto"
    device: Device = "auto"
    num_threads: int | None = None
    prefetch: int = 2
    max_pixels: int = MOST_PIXELS
    tuning: Tuning | None = None
    augment: Augment = "auto"
    on_device: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.name not in ("auto", "dali", "native"):
            raise ValueError(f"backend: {self.name!r} is not allowed; it must be auto, dali or native")
        if self.device not in ("auto", "cpu", "gpu"):
            raise ValueError(f"device: {self.device!r} is not allowed; it must be auto, cpu or gpu")
        if self.augment not in ("auto", "dali", "fused"):
            raise ValueError(f"augment: {self.augment!r} is not allowed; it must be auto, dali or fused")
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"num_threads: {self.num_threads} is not allowed; it must be at least 1")
        if self.prefetch < 1:
            raise ValueError(f"prefetch: {self.prefetch} is not allowed; it must be at least 1")
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise ValueError(
                f"max_pixels: {self.max_pixels} is not allowed; it must be 1 to {MOST_PIXELS}, the limit of PIL"
            )

    def resolve(self) -> ResolvedBackend:
        """Return the settings for this machine: the GPU if torch sees one, and DALI if a GPU computes the views.

        Raises:
            ValueError: If this machine does not have the requested device, tuning is given to the native backend, or
                augment is "fused" and no GPU computes the views.
        """
        has_gpu = torch.cuda.is_available()
        if self.device == "gpu" and not has_gpu:
            raise ValueError("device: gpu is not allowed here, because torch sees no CUDA device; use auto or cpu")
        on_gpu = self.device == "gpu" or (has_gpu and self.device == "auto" and self.name != "native")
        by_dali = self.name == "dali" or (on_gpu and self.name == "auto")
        if self.tuning is not None and not by_dali:
            raise ValueError("tuning: applies to backend dali only, and backend native computes the views; remove it")
        if self.augment == "fused" and not on_gpu:
            raise ValueError(
                f"augment: fused is not allowed on a CPU, and backend {'dali' if by_dali else 'native'} computes the"
                " views on a CPU here; use augment auto, and backend native, which computes the same steps on a CPU"
            )
        if self.on_device is True and not on_gpu:
            raise ValueError("on_device: true is not allowed on a CPU, where images are in memory anyway; use auto")
        return ResolvedBackend(
            name="dali" if by_dali else "native",
            device="gpu" if on_gpu else "cpu",
            num_threads=self.num_threads or cores_per_rank(),
            prefetch=self.prefetch,
            max_pixels=self.max_pixels,
            tuning=self.tuning or Tuning(),
            augment="fused" if self.augment == "fused" else "dali",
            on_device=self.on_device is True,
        )


class ResolvedBackend(NamedTuple):
    """The settings of a Backend after "auto" and the defaults are resolved for this machine."""

    name: Literal["dali", "native"]
    device: Literal["cpu", "gpu"]
    num_threads: int
    prefetch: int
    max_pixels: int
    tuning: Tuning
    augment: Literal["dali", "fused"] = "dali"
    on_device: bool = False


def check_allows_float(backend: ResolvedBackend) -> None:
    """Raise if a setting works only for RGB images of 8 bits. All other images have views that are computed in float32.

    Args:
        backend: Backend that computes random views.

    Raises:
        ValueError: If the settings have the fused kernels, images on the device, or decoding by region.
    """
    rule = "is allowed only for RGB images of 8 bits, and these have more bits or another number of channels; use"
    if backend.on_device:
        raise ValueError(f"on_device: true {rule} auto")
    if backend.augment == "fused":
        raise ValueError(f"augment: fused {rule} auto")
    if backend.tuning.decode == "region":
        raise ValueError(f"tuning.decode: region {rule} once, because these images are decoded as a whole")


def resolve_backend(backend: Backend | BackendName) -> ResolvedBackend:
    """Resolve a Backend for this machine.

    Args:
        backend: Backend, or the name of one, which then has the default settings.

    Raises:
        ValueError: If a value is out of range, or this machine does not have the requested device.
    """
    return (backend if isinstance(backend, Backend) else Backend(backend)).resolve()
