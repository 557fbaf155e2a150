"""Who makes the pixels: DALI on a GPU, and on a CPU the fused path, or DALI where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from dali_pipelines.params import MOST_PIXELS, EvalParams, Tuning, ViewParams
from dali_pipelines.plans import Plan
from dali_pipelines.ranks import cores_per_rank
from dali_pipelines.sources import ImageSource

if TYPE_CHECKING:
    from dali_pipelines.fused_cpu import FusedStream
    from dali_pipelines.stream import Stream

Device = Literal["auto", "cpu", "gpu"]
Backend = Literal["auto", "dali", "cpu"]


class Maker(NamedTuple):
    """How batches are made; num_threads, prefetch, max_pixels and tuning as in the loaders."""

    backend: Literal["dali", "cpu"]
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
    if backend not in ("auto", "dali", "cpu"):
        raise ValueError(f"backend: {backend!r} is not allowed; it must be auto, dali or cpu")
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device: {device!r} is not allowed; it must be auto, cpu or gpu")
    if backend == "cpu" and device == "gpu":
        raise ValueError("backend: cpu is not allowed with device gpu; take auto or dali")
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
    on_gpu = has_gpu and device != "cpu" and backend != "cpu"
    by_dali = on_gpu or backend == "dali"
    if tuning is not None and not by_dali:
        raise ValueError("tuning: is of DALI's graph, and the views are made by backend cpu; leave it out")
    return Maker(
        "dali" if by_dali else "cpu",
        "gpu" if on_gpu else "cpu",
        num_threads or cores_per_rank(),
        prefetch,
        max_pixels,
        tuning or Tuning(),
    )


def view_stream(
    source: ImageSource, views: tuple[ViewParams, ...], plans: Iterator[Plan], batch_size: int, maker: Maker
) -> Stream | FusedStream:
    """Iterates over (plan, its views).

    Raises:
        ImportError: If DALI is to make them and is not installed.
    """
    if maker.backend == "cpu":
        from dali_pipelines.fused_cpu import FusedStream, random_view

        makers = [random_view(view, number) for number, view in enumerate(views)]
        return FusedStream(source, makers, plans, maker)

    graphs = import_graphs()
    from dali_pipelines.stream import Stream

    def draws_of(plan: Plan) -> list[Any]:
        inputs: list[Any] = graphs.inputs_of(views, plan.draws)
        return inputs

    return Stream(source, partial(graphs.two_views, views=views), draws_of, plans, batch_size, maker)


def eval_stream(
    source: ImageSource, params: EvalParams, plans: Iterator[Plan], batch_size: int, maker: Maker
) -> Stream | FusedStream:
    """Iterates over (plan, (images,)).

    Raises:
        ImportError: If DALI is to make them and is not installed.
    """
    if maker.backend == "cpu":
        from dali_pipelines.fused_cpu import FusedStream, eval_view

        return FusedStream(source, [eval_view(params)], plans, maker)

    graphs = import_graphs()
    from dali_pipelines.stream import Stream

    return Stream(source, partial(graphs.eval_view, params=params), lambda plan: [], plans, batch_size, maker)


def import_graphs() -> Any:
    """The module with the graphs, which needs DALI.

    Raises:
        ImportError: If DALI is not installed; the message says how to get it.
    """
    try:
        from dali_pipelines import graphs
    except ImportError as error:
        if error.name is None or not error.name.startswith("nvidia"):
            raise
        raise ImportError(
            "backend dali needs NVIDIA DALI: pip install 'bt-plugin[cuda13]', or 'bt-plugin[cuda12]' where the"
            " driver is older than 580; or take backend cpu, which needs none"
        ) from error
    return graphs
