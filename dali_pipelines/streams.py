"""Open the backend that computes the views: DALI on a GPU; on a CPU the native one, or DALI on request."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from dali_pipelines.backend import ResolvedBackend
from dali_pipelines.plans import Plan
from dali_pipelines.sources import ImageSource
from dali_pipelines.views.params import EvalParams, ViewParams

if TYPE_CHECKING:
    from dali_pipelines.dali.stream import DaliStream
    from dali_pipelines.native.stream import NativeStream


def view_stream(
    source: ImageSource,
    views: tuple[ViewParams, ...],
    *,
    plans: Iterator[Plan],
    batch_size: int,
    backend: ResolvedBackend,
) -> DaliStream | NativeStream:
    """Iterates over (plan, its views).

    Raises:
        ImportError: If DALI is to make them and is not installed.
    """
    if backend.name == "native":
        from dali_pipelines.native.stream import NativeStream, random_view

        makers = [random_view(view, number) for number, view in enumerate(views)]
        return NativeStream(source, makers, plans=plans, backend=backend)

    graphs = import_graphs()
    from dali_pipelines.dali.stream import DaliStream

    def draws_of(plan: Plan) -> list[Any]:
        inputs: list[Any] = graphs.inputs_of(views, plan.draws)
        return inputs

    graph = partial(graphs.two_views, views=views)
    return DaliStream(source, graph, draws_of=draws_of, plans=plans, batch_size=batch_size, backend=backend)


def eval_stream(
    source: ImageSource, params: EvalParams, *, plans: Iterator[Plan], batch_size: int, backend: ResolvedBackend
) -> DaliStream | NativeStream:
    """Iterates over (plan, (images,)).

    Raises:
        ImportError: If DALI is to make them and is not installed.
    """
    if backend.name == "native":
        from dali_pipelines.native.stream import NativeStream, eval_view

        return NativeStream(source, [eval_view(params)], plans=plans, backend=backend)

    graphs = import_graphs()
    from dali_pipelines.dali.stream import DaliStream

    graph = partial(graphs.eval_view, params=params)
    return DaliStream(source, graph, draws_of=lambda plan: [], plans=plans, batch_size=batch_size, backend=backend)


def import_graphs() -> Any:
    """The module with the graphs, which needs DALI.

    Raises:
        ImportError: If DALI is not installed; the message says how to get it.
    """
    try:
        from dali_pipelines.dali import graphs
    except ImportError as error:
        if error.name is None or not error.name.startswith("nvidia"):
            raise
        raise ImportError(
            "backend dali needs NVIDIA DALI: pip install 'bt-plugin[cuda13]', or 'bt-plugin[cuda12]' where the"
            " driver is older than 580; or take backend native, which needs none"
        ) from error
    return graphs
