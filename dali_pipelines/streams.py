"""Open a stream of views on the chosen backend: DALI or native."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

    fused, in_float = backend.augment == "fused", source.views_in_float

    def draws_of(plan: Plan) -> list[Any]:
        inputs: list[Any] = graphs.inputs_of(views, plan.draws, only_crops=fused, in_float=in_float)
        return inputs

    dtype = torch.float16 if backend.tuning.float16 else torch.float32
    return DaliStream(
        source,
        partial(graphs.two_views, views=views, only_crops=fused, in_float=in_float),
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
        from dali_pipelines.native.float_views import eval_float_view
        from dali_pipelines.native.stream import NativeStream, eval_view

        make = eval_float_view if source.views_in_float else eval_view
        maker = make(params, normalized=backend.device == "cpu")
        return NativeStream(source, [maker], outputs=_outputs(source, [params], backend), plans=plans, backend=backend)

    graphs = import_graphs()
    from dali_pipelines.dali.stream import DaliStream

    graph = partial(graphs.eval_view, params=params, in_float=source.views_in_float)
    return DaliStream(source, graph, draws_of=lambda plan: [], plans=plans, batch_size=batch_size, backend=backend)


def _native_stream(
    source: ImageSource, views: tuple[ViewParams, ...], *, plans: Iterator[Plan], backend: ResolvedBackend
) -> NativeStream:
    """Return the native backend's stream. On a GPU the threads leave the last steps to it, or all after the resize."""
    from dali_pipelines.native.float_views import random_float_view
    from dali_pipelines.native.outputs import DeviceOutputs
    from dali_pipelines.native.stream import NativeStream, random_view, resized_crop

    if backend.augment == "fused":
        makers = [resized_crop(view, number) for number, view in enumerate(views)]
        outputs: Outputs = DeviceOutputs(_fused_augmenter()(views), _gpu())
    else:
        make = random_float_view if source.views_in_float else random_view
        makers = [make(view, number, normalized=backend.device == "cpu") for number, view in enumerate(views)]
        outputs = _outputs(source, views, backend)
    return NativeStream(source, makers, outputs=outputs, plans=plans, backend=backend)


def _outputs(source: ImageSource, views: Sequence[ViewParams | EvalParams], backend: ResolvedBackend) -> Outputs:
    """Return the native backend's memory for views that are finished by the threads, or on a GPU but normalized."""
    from dali_pipelines.native.outputs import DeviceOutputs, HostOutputs, Normalizer

    if backend.device == "cpu":
        return HostOutputs()
    dtype = torch.float32 if source.views_in_float else torch.uint8
    return DeviceOutputs(Normalizer(views, _gpu()), _gpu(), dtype)


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
