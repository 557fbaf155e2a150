"""Memory that the native backend's threads write views to, on the host or on the way to a device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipelines.plans import Plan
from dali_pipelines.views.normalization import scale_and_offset
from dali_pipelines.views.params import EvalParams, ViewParams

Array = NDArray[np.float32] | NDArray[np.uint8]
Finish = Callable[[Plan, tuple[Tensor, ...]], tuple[Tensor, ...]]


class Sent(NamedTuple):
    """A batch of views on its way to the training.

    Args:
        views: One tensor (n, S, S, C) for each view.
        copied: Event after the copies to a GPU, None on a CPU.
    """

    views: tuple[Tensor, ...]
    copied: torch.cuda.Event | None = None


class Outputs(Protocol):
    """The memory that a stream's threads write views to.

    A stream calls ``empty`` for each view of a batch, fills the arrays, and then calls ``send`` and ``receive``.
    """

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Return an array for one view of a batch."""

    def send(self, arrays: Sequence[Array]) -> Sent:
        """Begin to move a batch that is complete. It does not wait."""

    def receive(self, plan: Plan, sent: Sent) -> tuple[Tensor, ...]:
        """Return the views of the plan's batch, (n, C, S, S) float32 in channels_last."""


class _Lent(NamedTuple):
    array: Array
    borrower: weakref.ref[Array]


class HostOutputs:
    """Views in the host's memory. The threads write float32, and memory is used again when its tensor is gone."""

    def __init__(self) -> None:
        self._lent: list[_Lent] = []

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Return a free array, or else a new one. A new one costs time, because the system must clear its pages."""
        for index, (array, borrower) in enumerate(self._lent):
            if array.shape == shape and borrower() is None:
                del self._lent[index]
                return array
        return np.empty(shape, dtype=np.float32)

    def send(self, arrays: Sequence[Array]) -> Sent:
        return Sent(tuple(self._lend(array) for array in arrays))

    def receive(self, plan: Plan, sent: Sent) -> tuple[Tensor, ...]:
        return tuple(view.permute(0, 3, 1, 2) for view in sent.views)

    def _lend(self, array: Array) -> Tensor:
        # Only the tensor's storage refers to this view, so the weak reference shows when the tensor is gone.
        view = array[:]
        self._lent.append(_Lent(array, weakref.ref(view)))
        return torch.from_numpy(view)


class DeviceOutputs:
    """Views on a device. The threads write levels, which are copied on a stream of its own and finished there.

    Views of RGB images of 8 bits are whole numbers before their normalization. They are written as uint8: the same
    numbers with a quarter of the bytes. Other views are written as float32. On a GPU the arrays are in pinned memory
    from torch's allocator, which reuses it only after the copy. A copy to a CPU "device" is no copy, which the tests
    use.

    Args:
        finish: Function that turns what the threads wrote for a plan, (n, S, S, C), into views: a Normalizer, or a
            BatchAugmenter for crops of uint8.
        device: Device of the training.
        dtype: Type that the threads write: uint8 or float32.
    """

    def __init__(self, finish: Finish, device: torch.device, dtype: torch.dtype = torch.uint8) -> None:
        self._finish = finish
        self._device = device
        self._dtype = dtype
        self._on_gpu = device.type == "cuda"
        self._side = torch.cuda.Stream(device) if self._on_gpu else None

    def empty(self, shape: tuple[int, ...]) -> Array:
        array: Array = torch.empty(shape, dtype=self._dtype, pin_memory=self._on_gpu).numpy()
        return array

    def send(self, arrays: Sequence[Array]) -> Sent:
        views = [torch.from_numpy(array) for array in arrays]
        if self._side is None:
            return Sent(tuple(views))
        with torch.cuda.stream(self._side):
            copies = tuple(view.to(self._device, non_blocking=True) for view in views)
            return Sent(copies, self._side.record_event())

    def receive(self, plan: Plan, sent: Sent) -> tuple[Tensor, ...]:
        if sent.copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(sent.copied)
            for view in sent.views:
                view.record_stream(current)
        return self._finish(plan, sent.views)


class Normalizer:
    """Normalize whole views on a device.

    Args:
        views: Parameters of each view.
        device: The device.
    """

    def __init__(self, views: Sequence[ViewParams | EvalParams], device: torch.device) -> None:
        affine = (scale_and_offset(view) for view in views)
        self._affine = [
            tuple(torch.from_numpy(values).view(1, -1, 1, 1).to(device) for values in pair) for pair in affine
        ]

    def __call__(self, plan: Plan, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the views of a batch.

        Shape:
            - views: (n, S, S, C) uint8 or float32 each.
            - Output: (n, C, S, S) float32 each, channels_last.
        """
        # Two operations, because one that multiplies and adds would round only once.
        return tuple(
            torch.mul(view.permute(0, 3, 1, 2), scale).add_(offset)
            for view, (scale, offset) in zip(views, self._affine, strict=True)
        )
