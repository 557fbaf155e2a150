"""Open a stream of views on the chosen backend: DALI or native."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from dali_pipelines.backend import ResolvedBackend
from dali_pipelines.plans import Plan
from dali_pipelines.sources import ImageSource
from dali_pipelines.views.params import EvalParams, ViewParams

if TYPE_CHECKING:
    from dali_pipelines.dali.stream import DaliStream
    from dali_pipelines.gpu.batches import BatchAugmenter
    from dali_pipelines.gpu.pixels import PixelStream
    from dali_pipelines.native.outputs import Outputs
    from dali_pipelines.native.stream import NativeStream


def view_stream(
    source: ImageSource,
    views: tuple[ViewParams, ...],
    *,
    plans: Iterator[Plan],
    batch_size: int,
    backend: ResolvedBackend,
) -> DaliStream | NativeStream | PixelStream:
    """Return an iterator over (plan, random views).

    Args:
        source: Source of the images.
        views: Parameters of each view.
        plans: Plans of the batches, in order.
        batch_size: Largest number of samples per batch.
        backend: Backend that computes the views.

    Raises:
        ImportError: If DALI must compute the views and is not installed, or Triton must augment them and is not
            installed.
    """
    if backend.on_device:
        from dali_pipelines.gpu.pixels import PixelStream, pixels_on

        return PixelStream(pixels_on(_gpu(), source), views, plans=plans, finish=_fused_augmenter()(views))
    if backend.name == "native":
        return _native_stream(source, views, plans=plans, backend=backend)

    graphs = import_graphs()
    from dali_pipelines.dali.stream import DaliStream

    fused = backend.augment == "fused"

    def draws_of(plan: Plan) -> list[Any]:
        inputs: list[Any] = graphs.inputs_of(views, plan.draws, only_crops=fused)
        return inputs

    dtype = torch.float16 if backend.tuning.float16 else torch.float32
    return DaliStream(
        source,
        partial(graphs.two_views, views=views, only_crops=fused),
        draws_of=draws_of,
        plans=plans,
        batch_size=batch_size,
        backend=backend,
        finish=_fused_augmenter()(views, dtype=dtype) if fused else None,
    )


def eval_stream(
    source: ImageSource, params: EvalParams, *, plans: Iterator[Plan], batch_size: int, backend: ResolvedBackend
) -> DaliStream | NativeStream:
    """Return an iterator over (plan, (evaluation views,)).

    Args:
        source: Source of the images.
        params: Parameters of the evaluation view.
        plans: Plans of the batches, in order.
        batch_size: Largest number of samples per batch.
        backend: Backend that computes the views.

    Raises:
        ImportError: If DALI must compute the views and is not installed.
    """
    if backend.name == "native":
        from dali_pipelines.native.outputs import DeviceOutputs, HostOutputs, Normalizer
        from dali_pipelines.native.stream import NativeStream, eval_view

        on_gpu = backend.device == "gpu"
        outputs: Outputs = DeviceOutputs(Normalizer([params], _gpu()), _gpu()) if on_gpu else HostOutputs()
        maker = eval_view(params, normalized=not on_gpu)
        return NativeStream(source, [maker], outputs=outputs, plans=plans, backend=backend)

    graphs = import_graphs()
    from dali_pipelines.dali.stream import DaliStream

    graph = partial(graphs.eval_view, params=params)
    return DaliStream(source, graph, draws_of=lambda plan: [], plans=plans, batch_size=batch_size, backend=backend)


def _native_stream(
    source: ImageSource, views: tuple[ViewParams, ...], *, plans: Iterator[Plan], backend: ResolvedBackend
) -> NativeStream:
    """Return the native backend's stream. On a GPU the threads leave the last steps to it, or all after the resize."""
    from dali_pipelines.native.outputs import DeviceOutputs, HostOutputs, Normalizer
    from dali_pipelines.native.stream import NativeStream, random_view, resized_crop

    numbered = list(enumerate(views))
    if backend.device == "cpu":
        makers = [random_view(view, number) for number, view in numbered]
        return NativeStream(source, makers, outputs=HostOutputs(), plans=plans, backend=backend)
    if backend.augment == "fused":
        makers = [resized_crop(view, number) for number, view in numbered]
        outputs = DeviceOutputs(_fused_augmenter()(views), _gpu())
    else:
        makers = [random_view(view, number, normalized=False) for number, view in numbered]
        outputs = DeviceOutputs(Normalizer(views, _gpu()), _gpu())
    return NativeStream(source, makers, outputs=outputs, plans=plans, backend=backend)


def _gpu() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def import_graphs() -> Any:
    """Import the module of DALI graphs.

    Raises:
        ImportError: If DALI is not installed; the message says how to install it.
    """
    try:
        from dali_pipelines.dali import graphs
    except ImportError as error:
        if error.name is None or not error.name.startswith("nvidia"):
            raise
        raise ImportError(
            "backend: dali needs NVIDIA DALI, which is not installed; pip install 'bt-plugin[cuda13]', or"
            " 'bt-plugin[cuda12]' if the driver is older than 580; or use backend native, which does not need DALI"
        ) from error
    return graphs


def _fused_augmenter() -> type[BatchAugmenter]:
    try:
        from dali_pipelines.gpu.batches import BatchAugmenter
    except ImportError as error:
        if error.name is None or not error.name.startswith("triton"):
            raise
        raise ImportError(
            "augment: fused needs Triton, which is not installed; pip install triton, or use augment dali"
        ) from error
    return BatchAugmenter
