"""The GPU memory of a rank at the peak of a step, by part."""

from __future__ import annotations

from typing import NamedTuple

from bt_plugin.config.recipe import Recipe
from bt_plugin.planning.quantity import Kind, Quantity, quantity
from bt_plugin.planning.step_meter import TEMPORARY
from bt_plugin.planning.traced_step import TracedStep

GIB = 2**30
# CUDA's context, the loaded kernels, and the workspaces of cuBLAS (32 MiB on Hopper) and cuDNN. torch does not count
# the context.
CONTEXT_GIB = 1.0
# Blocks of the caching allocator that are free and too small or too scattered to be used.
FRAGMENTATION = 0.05
# A decoded image of ImageNet has about this many bytes: 500 x 375 px, three channels.
_DECODED_BYTES = 500 * 375 * 3

_PARTS = {
    "weights": "weights and buffers",
    "optimizer": "state of the optimizer",
    "gradients": "gradients",
    "low_precision_weights": "copies of weights in bf16 or fp16",
    "gathered_weights": "weights that FSDP has gathered",
    "backbone": "activations of the backbone",
    "projector": "activations of the projector",
    "loss": "gradients of the embeddings, kept by the loss",
    "views": "views of the step",
    TEMPORARY: "gradients of activations, and temporary tensors",
}
# What grows with the micro-batch.
_GROWING = ("backbone", "projector", "loss", "views", TEMPORARY)


class Memory(NamedTuple):
    """The GPU memory of a rank.

    Args:
        parts: The parts at the peak, and what is added to them, in GiB.
        total: Their sum, in GiB.
        allocated: What torch.cuda.max_memory_allocated would report, in GiB.
        fixed_gib: What does not grow with the micro-batch.
    """

    parts: list[Quantity]
    total: Quantity
    allocated: Quantity
    fixed_gib: float


def step_memory(recipe: Recipe, traced: TracedStep) -> Memory:
    """Return the GPU memory of a rank from its traced step.

    Args:
        recipe: Recipe of the run.
        traced: Its traced step, with the recipe's micro-batch.
    """
    n = traced.micro_batch_size
    at_peak = _with_all_micro_batches(recipe, traced)
    parts = [
        quantity(_PARTS[part], size / GIB, "GiB", kind="computed", source="the traced step, at its peak")
        for part, size in at_peak.items()
        if size
    ]
    allocated_gib = sum(at_peak.values()) / GIB
    loader = loader_gib(recipe, n * recipe.optim.accumulation_steps)
    extra: list[tuple[str, float, Kind, str]] = [
        ("loader on the GPU", loader, "assumed", _loader_source(recipe)),
        ("CUDA context, cuBLAS and cuDNN", CONTEXT_GIB, "assumed", "a typical size"),
        ("fragmentation", FRAGMENTATION * allocated_gib, "assumed", f"{FRAGMENTATION:.0%} of what torch allocates"),
    ]
    parts += [quantity(name, size, "GiB", kind=kind, source=source) for name, size, kind, source in extra]
    total_gib = sum(part.low for part in parts)
    growing_gib = sum(at_peak.get(part, 0) for part in _GROWING) / GIB * (1 + FRAGMENTATION) + loader
    return Memory(
        parts=parts,
        total=quantity("total", total_gib, "GiB", kind="computed", source="the sum; assumed parts are marked"),
        allocated=quantity(
            "allocated by torch", allocated_gib, "GiB", kind="computed", source="the traced step, at its peak"
        ),
        fixed_gib=total_gib - growing_gib,
    )


def _with_all_micro_batches(recipe: Recipe, traced: TracedStep) -> dict[str, int]:
    """Return the bytes at the peak, by part, of a step with all micro-batches.

    The peak is either in a backward pass or in the loss, which then has no activations next to it.
    """
    further_in_backward, further_in_loss = of_further_micro_batches(recipe, traced)
    views = traced.peak_bytes.get("views", 0) // traced.micro_batches * recipe.optim.accumulation_steps
    more_views = views - traced.peak_bytes.get("views", 0)
    in_backward = {**traced.peak_bytes, "views": views}
    in_backward[TEMPORARY] = in_backward.get(TEMPORARY, 0) + further_in_backward - more_views
    of_embeddings = 2 * traced.micro_batches * traced.embedding_bytes + further_in_loss - more_views
    in_loss = {**traced.kept_bytes, "views": views, "loss": traced.loss_bytes + of_embeddings}
    return max(in_backward, in_loss, key=lambda parts: sum(parts.values()))


def of_further_micro_batches(recipe: Recipe, traced: TracedStep) -> tuple[int, int]:
    """Return the bytes that micro-batches add which were not traced: in a backward pass, and in the loss.

    Views and embeddings of all micro-batches, and the embeddings' gradients, are kept until the step ends.

    Args:
        recipe: Recipe of the run.
        traced: Its traced step.
    """
    more = recipe.optim.accumulation_steps - traced.micro_batches
    views = traced.peak_bytes.get("views", 0) // traced.micro_batches
    # Embeddings by micro-batch, the same joined, and later their gradients.
    return more * (views + 3 * traced.embedding_bytes), more * (views + 2 * traced.embedding_bytes)


def loader_gib(recipe: Recipe, n: int) -> float:
    """Return the estimated memory of batches in flight, and of DALI's pools.

    Args:
        recipe: Recipe of the run.
        n: Images of a step on this rank.
    """
    views_bytes = sum(view.channels * view.size_px**2 for view in recipe.preset.views) * n
    batches = recipe.data.prefetch
    if recipe.data.backend == "native":
        return (batches * views_bytes + 4 * views_bytes) / GIB
    return (batches * 4 * views_bytes + 2 * n * _DECODED_BYTES) / GIB


def _loader_source(recipe: Recipe) -> str:
    if recipe.data.backend == "native":
        return "data.prefetch batches of uint8 views, and one of float32"
    return "data.prefetch batches of float32 views, and two of decoded images of 500 x 375 px"
