"""The GPU memory of a rank at the peak of a step, by part, and the largest micro-batch that fits."""

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
_FRAGMENTATION = 0.05
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
        per_image_gib: What each further image of the micro-batch adds.
    """

    parts: list[Quantity]
    total: Quantity
    allocated: Quantity
    fixed_gib: float
    per_image_gib: float

    def largest_micro_batch(self, usable_gib: float) -> int:
        """Return the most images of one forward pass that fit, 0 if two do not.

        Args:
            usable_gib: Memory of the GPU that is free, in GiB.
        """
        most = int((usable_gib - self.fixed_gib) / self.per_image_gib)
        return most if most >= 2 else 0


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
    loader = _loader_gib(recipe, n * recipe.optim.accumulation_steps)
    extra: list[tuple[str, float, Kind, str]] = [
        ("loader on the GPU", loader, "assumed", _loader_source(recipe)),
        ("CUDA context, cuBLAS and cuDNN", CONTEXT_GIB, "assumed", "a typical size"),
        ("fragmentation", _FRAGMENTATION * allocated_gib, "assumed", f"{_FRAGMENTATION:.0%} of what torch allocates"),
    ]
    parts += [quantity(name, size, "GiB", kind=kind, source=source) for name, size, kind, source in extra]
    total_gib = sum(part.low for part in parts)
    growing_gib = sum(at_peak.get(part, 0) for part in _GROWING) / GIB * (1 + _FRAGMENTATION) + loader
    return Memory(
        parts=parts,
        total=quantity("total", total_gib, "GiB", kind="computed", source="the sum; assumed parts are marked"),
        allocated=quantity(
            "allocated by torch", allocated_gib, "GiB", kind="computed", source="the traced step, at its peak"
        ),
        fixed_gib=total_gib - growing_gib,
        per_image_gib=growing_gib / n,
    )


def _with_all_micro_batches(recipe: Recipe, traced: TracedStep) -> dict[str, int]:
    """Return the bytes at the peak, by part, of a step with all micro-batches.

    Views and embeddings of all micro-batches, and the embeddings' gradients, are kept until the step ends. The peak is
    either in a backward pass or in the loss, which then has no activations next to it.
    """
    more = recipe.optim.accumulation_steps - traced.micro_batches
    in_backward = dict(traced.peak_bytes)
    views = in_backward.get("views", 0) // traced.micro_batches
    in_backward["views"] = views * recipe.optim.accumulation_steps
    # Embeddings by micro-batch, the same joined, and their gradients.
    in_backward[TEMPORARY] = in_backward.get(TEMPORARY, 0) + 3 * more * traced.embedding_bytes
    embeddings = 2 * recipe.optim.accumulation_steps * traced.embedding_bytes
    in_loss = {**traced.kept_bytes, "views": in_backward["views"], "loss": traced.loss_bytes + embeddings}
    return max(in_backward, in_loss, key=lambda parts: sum(parts.values()))


def _loader_gib(recipe: Recipe, n: int) -> float:
    """Return the estimated memory of batches in flight, and of DALI's pools."""
    views_bytes = sum(view.channels * view.size_px**2 for view in recipe.preset.views) * n
    batches = recipe.data.prefetch
    if recipe.data.backend == "native":
        return (batches * views_bytes + 4 * views_bytes) / GIB
    return (batches * 4 * views_bytes + 2 * n * _DECODED_BYTES) / GIB


def _loader_source(recipe: Recipe) -> str:
    if recipe.data.backend == "native":
        return "data.prefetch batches of uint8 views, and one of float32"
    return "data.prefetch batches of float32 views, and two of decoded images of 500 x 375 px"
