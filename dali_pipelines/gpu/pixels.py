"""Views of images that are already on the device, for data sets that fit into its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from dali_pipelines.gpu.resize import resized_crops
from dali_pipelines.plans import Plan
from dali_pipelines.sources import ImageSource
from dali_pipelines.sources.arrays import ArraySource
from dali_pipelines.views.crop_windows import crop_window
from dali_pipelines.views.draws import ViewDraws
from dali_pipelines.views.params import ViewParams

# The model, its optimizer and the activations need the rest.
_MOST_OF_MEMORY = 0.5


class PixelStream:
    """Iterate over planned batches of images that are on the device. Nothing is read, decoded or computed ahead.

    Args:
        images: All images of the source.
        views: Parameters of each view.
        plans: Plans of the batches, in order; may be endless.
        finish: Function that turns the crops of a plan into views.

    Shape:
        - images: (N, H, W, C) uint8.
    """

    def __init__(
        self,
        images: Tensor,
        views: tuple[ViewParams, ...],
        *,
        plans: Iterator[Plan],
        finish: Callable[[Plan, tuple[Tensor, ...]], tuple[Tensor, ...]],
    ) -> None:
        self._images = images
        self._views = views
        self._plans = plans
        self._finish = finish

    def __iter__(self) -> Iterator[tuple[Plan, tuple[Tensor, ...]]]:
        return self

    def __next__(self) -> tuple[Plan, tuple[Tensor, ...]]:
        """Return the next batch: its plan, and its views as the function `finish` returns them."""
        plan = next(self._plans)
        images = self._images[self._there(plan.indices)]
        crops = tuple(
            resized_crops(images, self._windows(draws, view), size_px=view.size_px, interpolation=view.interpolation)
            for draws, view in zip(plan.draws, self._views, strict=True)
        )
        return plan, self._finish(plan, crops)

    def restart(self, plans: Iterator[Plan]) -> None:
        """Continue with other plans.

        Args:
            plans: Plans of the next batches, in order.
        """
        self._plans = plans

    def _windows(self, draws: ViewDraws, view: ViewParams) -> Tensor:
        height, width = self._images.shape[1:3]
        rows = range(len(draws.flip))
        return self._there(np.array([crop_window(height, width, draws, row, view.crop_ratio) for row in rows]))

    def _there(self, values: np.ndarray) -> Tensor:
        """Return an array of int64 on the device. From pinned memory the copy does not wait for the GPU."""
        host = torch.from_numpy(values)
        return host.pin_memory().to(self._images.device, non_blocking=True) if self._images.is_cuda else host


def pixels_on(device: torch.device, source: ImageSource) -> Tensor:
    """Return all images of a source of pixels on a device, (N, H, W, C) uint8; gray as RGB.

    Args:
        device: The device.
        source: Source of the images, which check_fits allows.
    """
    assert isinstance(source, ArraySource), "check_fits refuses others"
    images = torch.from_numpy(np.array(source.images)).to(device)
    return images.expand(-1, -1, -1, 3) if images.shape[3] == 1 else images


def check_fits(source: ImageSource, memory_bytes: int) -> None:
    """Raise if a source cannot be kept on a device.

    Args:
        source: Source of the images.
        memory_bytes: Memory of the device.

    Raises:
        ValueError: If the images are not pixels, or need more than half of the memory.
    """
    if not isinstance(source, ArraySource):
        raise ValueError(
            "on_device: true is allowed only for images that are one array of pixels, such as a .npy file, and these"
            " are not; use auto, or convert them"
        )
    if source.images.nbytes > _MOST_OF_MEMORY * memory_bytes:
        raise ValueError(
            f"on_device: true is not allowed, because the images need {source.images.nbytes / 2**30:.1f} GiB, and the"
            f" device has {memory_bytes / 2**30:.1f} GiB, of which they may fill half; use auto"
        )
