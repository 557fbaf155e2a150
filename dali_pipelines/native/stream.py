"""Compute the views on a CPU without DALI: simplejpeg decodes, torch resizes, and one numba kernel does the rest.

The workers are threads, because decoding, resizing and the kernel all run without the interpreter's lock. So no batch
is copied between processes. A sample's pixels depend only on its file and its random numbers, not on the number of
threads.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from dali_pipelines.backend import ResolvedBackend
from dali_pipelines.decoding.read_pixels import read_pixels
from dali_pipelines.native.kernel import augment
from dali_pipelines.native.outputs import Array, Outputs, Sent
from dali_pipelines.plans import Plan
from dali_pipelines.sources import ImageSource
from dali_pipelines.views.crop_windows import Window, center_window, crop_window
from dali_pipelines.views.draws import COLOR_STEPS
from dali_pipelines.views.normalization import levels, scale_and_offset
from dali_pipelines.views.orientation import has_turns, turned
from dali_pipelines.views.params import EvalParams, ViewParams
from dali_pipelines.views.yiq import hue_matrix

# Large enough that a task's overhead does not matter, small enough that the threads finish a batch at about one time.
_SAMPLES_PER_TASK = 4
_SWITCH_S = 0.0005
_NO_BLUR = np.ones(1, dtype=np.float32)
_NO_STEPS = np.empty(0, dtype=np.uint8)
_IN_HSV = np.empty((0, 3), dtype=np.float32)


class ViewMaker(NamedTuple):
    """A function that computes one view of a sample, and the shape of its output.

    Args:
        write: Function (pixels, plan, row, out) that writes the view of the sample in the plan's row to out. The pixels
            are (H, W, C) uint8, or float32 for float_views. out is (S, S, C), float32 or uint8.
        shape: Shape (S, S, C) of the view.
    """

    write: Callable[[Tensor, Plan, int, Array], None]
    shape: tuple[int, int, int]


class _Started(NamedTuple):
    plan: Plan
    arrays: list[Array]
    tasks: list[Future[None]]

    def is_complete(self) -> bool:
        """Whether all views are written, without an error."""
        return all(task.done() and task.exception() is None for task in self.tasks)


class NativeStream:
    """Iterate over planned batches, which threads compute ahead. The interface is that of DaliStream.

    Args:
        source: Source of the images, which the plans' indices refer to.
        makers: Function and shape of each view.
        outputs: Memory that the views are written to.
        plans: Plans of the batches, in order; may be endless.
        backend: Number of threads, prefetch and limits.
    """

    def __init__(
        self,
        source: ImageSource,
        makers: list[ViewMaker],
        *,
        outputs: Outputs,
        plans: Iterator[Plan],
        backend: ResolvedBackend,
    ) -> None:
        self._source = source
        self._makers = makers
        self._outputs = outputs
        self._plans = plans
        self._backend = backend
        # A thread that returns from C waits up to this long for a thread that runs Python. That happens about ten times
        # per sample. With Python's default, 5 ms, the throughput halves if the training loop holds the lock half of the
        # time. See benchmarks/LOG.md.
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))
        self._threads = ThreadPoolExecutor(backend.num_threads, "dali_pipelines", _work_alone)
        self._started: deque[_Started] = deque()
        # The batch after the last one that was returned, if it was complete by then.
        self._sent: tuple[Plan, Sent] | None = None

    def __iter__(self) -> Iterator[tuple[Plan, tuple[Tensor, ...]]]:
        return self

    def __next__(self) -> tuple[Plan, tuple[Tensor, ...]]:
        """Return the next batch.

        Returns:
            The plan, and its views.

        Shape:
            Views: (n, C, S, S) float32 in channels_last, on the device of the outputs. They are safe to keep: their
            memory is reused only after the last reference to it is gone.

        Raises:
            BadImageError: If an image cannot be read or decoded, or is too large; the message names it.
        """
        ahead = self._backend.prefetch + (self._sent is None)
        while len(self._started) < ahead and (plan := next(self._plans, None)) is not None:
            self._start(plan)
        plan, sent = self._sent or self._send()
        # A batch that is complete is copied while the training uses the one before.
        self._sent = self._send() if self._started and self._started[0].is_complete() else None
        return plan, self._outputs.receive(plan, sent)

    def restart(self, plans: Iterator[Plan]) -> None:
        """Continue with other plans, and drop the batches that are computed ahead.

        Args:
            plans: Plans of the next batches, in order.
        """
        self._plans = plans
        for _, _, tasks in self._started:
            for task in tasks:
                task.cancel()
        self._started.clear()
        self._sent = None

    def _start(self, plan: Plan) -> None:
        n = len(plan.indices)
        arrays = [self._outputs.empty((n, *maker.shape)) for maker in self._makers]
        firsts = range(0, n, _SAMPLES_PER_TASK)
        rows = [range(first, min(first + _SAMPLES_PER_TASK, n)) for first in firsts]
        self._started.append(_Started(plan, arrays, [self._threads.submit(self._make, plan, r, arrays) for r in rows]))

    def _send(self) -> tuple[Plan, Sent]:
        """Send the oldest batch, when it is complete."""
        if not self._started:
            raise StopIteration
        plan, arrays, tasks = self._started.popleft()
        for task in tasks:
            task.result()
        return plan, self._outputs.send(arrays)

    def _make(self, plan: Plan, rows: range, arrays: list[Array]) -> None:
        for row in rows:
            index = int(plan.indices[row])
            pixels = read_pixels(self._source, index, self._backend.max_pixels)
            for maker, array in zip(self._makers, arrays):
                maker.write(pixels, plan, row, array[row])


def random_view(view: ViewParams, number: int, *, normalized: bool = True) -> ViewMaker:
    """Return the maker of a random view.

    Args:
        view: Parameters of the view.
        number: Position of the view's random numbers in Plan.draws.
        normalized: Whether the view is normalized. Otherwise its values are whole numbers from 0 to 255.
    """
    scale, offset = scale_and_offset(view) if normalized else levels(view)

    def write(pixels: Tensor, plan: Plan, row: int, out: Array) -> None:
        draws = plan.draws[number]
        resized, mirrored = _cropped(pixels, plan, row, view, number).numpy(), bool(draws.flip[row])
        if has_turns(view):
            resized, mirrored = turned(resized, draws, row)
        factors = np.array([draws.brightness[row], draws.contrast[row], draws.saturation[row], 6 * draws.hue[row]])
        augment(
            resized,
            mirrored,
            draws.color_order[row] if draws.jitter[row] else _NO_STEPS,
            factors.astype(np.float32),
            hue_matrix(draws.hue[row]) if view.hue_space == "yiq" and draws.jitter[row] else _IN_HSV,
            bool(draws.gray[row]),
            gaussian(float(draws.blur_sigma_px[row]), view.size_px) if draws.blur[row] else _NO_BLUR,
            bool(draws.solarize[row]),
            scale,
            offset,
            _scratch(view.size_px, pixels.shape[2]),
            out,
        )

    return ViewMaker(write, (view.size_px, view.size_px, view.channels))


def resized_crop(view: ViewParams, number: int) -> ViewMaker:
    """Return the maker of the crop of a random view after its resize, for code that computes the rest of the view.

    The crop is not flipped and not turned.

    Args:
        view: Parameters of the view.
        number: Position of the view's random numbers in Plan.draws.
    """

    def write(pixels: Tensor, plan: Plan, row: int, out: Array) -> None:
        out[...] = _cropped(pixels, plan, row, view, number).numpy()

    # A view of one channel is made from an image of three.
    return ViewMaker(write, (view.size_px, view.size_px, 3 if view.channels == 1 else view.channels))


def eval_view(params: EvalParams, *, normalized: bool = True) -> ViewMaker:
    """Return the maker of the evaluation view.

    Args:
        params: Parameters of the view.
        normalized: Whether the view is normalized. Otherwise its values are whole numbers from 0 to 255.
    """
    scale, offset = scale_and_offset(params) if normalized else levels(params)
    factors = np.ones(len(COLOR_STEPS), dtype=np.float32)
    plain = (False, _NO_STEPS, factors, _IN_HSV, False, _NO_BLUR, False, scale, offset)

    def write(pixels: Tensor, plan: Plan, row: int, out: Array) -> None:
        height, width, _ = pixels.shape
        resized_size, window = center_window(height, width, params.resize_px, params.size_px)
        cropped = _cut(_resized(pixels, resized_size, params.interpolation), window).contiguous()
        augment(cropped.numpy(), *plain, _scratch(params.size_px, pixels.shape[2]), out)

    return ViewMaker(write, (params.size_px, params.size_px, params.channels))


def gaussian(sigma_px: float, size_px: int) -> NDArray[np.float32]:
    """Return the weights of a true Gaussian over 2 ceil(3 sigma) + 1 pixels, or as many as the view can mirror.

    Args:
        sigma_px: Standard deviation, in px.
        size_px: Height and width of the view, in px.
    """
    radius = min(math.ceil(3 * sigma_px), size_px - 1)
    x = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (x / sigma_px) ** 2)
    normalised: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
    return normalised


def _work_alone() -> None:
    """Turn off torch's own threads in this thread. torch.set_num_threads would turn them off for the training too."""
    # torch sets the number of threads again at a thread's first work. This call makes that happen before the limit.
    torch.get_num_threads()
    threadpool_limits(1, user_api="openmp")


def _cropped(pixels: Tensor, plan: Plan, row: int, view: ViewParams, number: int) -> Tensor:
    """Return the crop of a random view, resized to (S, S, C) uint8."""
    height, width, _ = pixels.shape
    window = crop_window(height, width, plan.draws[number], row, view.crop_ratio)
    return _resized(_cut(pixels, window), (view.size_px, view.size_px), view.interpolation)


def _cut(pixels: Tensor, window: Window) -> Tensor:
    top, left, height, width = window
    return pixels[top : top + height, left : left + width]


def _resized(pixels: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Return the resized pixels, (H, W, C) uint8, contiguous and antialiased as by PIL's resize."""
    pixels = pixels.contiguous()
    height, width, channels = pixels.shape
    # These are the strides of a channels_last batch, even of its batch dimension. For others torch uses slower code.
    strides = (height * width * channels, 1, width * channels, channels)
    batch = pixels.as_strided((1, channels, height, width), strides)
    resized = functional.interpolate(batch, size, mode=interpolation, antialias=True)
    return resized.squeeze(0).permute(1, 2, 0).contiguous()


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.scratch: dict[tuple[int, int], NDArray[np.float32]] = {}


_of_thread = _OfThread()


def _scratch(size_px: int, channels: int) -> NDArray[np.float32]:
    """Return this thread's working memory, (2, S, C, S) float32."""
    arrays = _of_thread.scratch
    key = size_px, channels
    if key not in arrays:
        arrays[key] = np.empty((2, size_px, channels, size_px), dtype=np.float32)
    return arrays[key]
