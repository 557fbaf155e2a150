"""Augment whole batches: the stage that follows a DALI graph which ends after the resize."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipelines.gpu.augment import augment
from dali_pipelines.gpu.table import view_table
from dali_pipelines.plans import Plan
from dali_pipelines.views.draws import ViewDraws
from dali_pipelines.views.orientation import has_turns, orientation
from dali_pipelines.views.params import ViewParams


class _InUse(NamedTuple):
    done: torch.cuda.Event
    crops: tuple[Tensor, ...]


class BatchAugmenter:
    """Turn the crops of each batch into its views, with the random numbers of its plan.

    Crops come from DALI, from the native backend, or from images on the device. None of these flips or turns them, so
    that it is done once, here.

    The kernels are queued on the current CUDA stream, and the host does not wait for them. Crops are DALI's memory. So
    they are kept until an event after the last kernel is reached, and DALI cannot use their memory before.

    Args:
        views: Parameters of each view.
        dtype: Type of the views: float32, bfloat16 or float16.
    """

    def __init__(self, views: tuple[ViewParams, ...], *, dtype: torch.dtype = torch.float32) -> None:
        self._views, self._dtype = views, dtype
        self._in_use: deque[_InUse] = deque()

    def __call__(self, plan: Plan, crops: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the views of a batch.

        Args:
            plan: Plan of the batch.
            crops: Crops after their resize, one tensor for each view.

        Shape:
            - crops: (n, S, S, C) uint8 each.
            - Output: (n, channels, S, S) each, channels_last.
        """
        views = tuple(
            augment(_turned(crop, draws, view), view_table(draws, view), view=view, dtype=self._dtype)
            for crop, draws, view in zip(crops, plan.draws, self._views)
        )
        if crops[0].is_cuda:
            done = torch.cuda.Event()
            done.record()
            self._in_use.append(_InUse(done, crops))
            while self._in_use and self._in_use[0].done.query():
                self._in_use.popleft()
        return views


def _turned(crops: Tensor, draws: ViewDraws, view: ViewParams) -> Tensor:
    """Return crops transposed and flipped vertically, (n, S, S, C) uint8, contiguous. The kernels do the other flip."""
    if not has_turns(view):
        return crops
    transposed, upside_down, _ = orientation(draws)
    crops = torch.where(_mask(transposed, crops), crops.transpose(1, 2), crops)
    return torch.where(_mask(upside_down, crops), crops.flip(1), crops).contiguous()


def _mask(of_samples: NDArray[np.bool_], crops: Tensor) -> Tensor:
    """Return one value for each sample, (n, 1, 1, 1) bool, on the device of the crops, without waiting for it."""
    mask = torch.from_numpy(of_samples)
    return (mask.pin_memory().to(crops.device, non_blocking=True) if crops.is_cuda else mask)[:, None, None, None]
