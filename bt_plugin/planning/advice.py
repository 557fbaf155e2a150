"""What to change if a step does not fit, cheapest first. Each remedy is traced, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import UserError
from bt_plugin.planning.memory import Memory

Measure = Callable[[Recipe], Memory]


def advice(
    recipe: Recipe, memory: Memory, *, usable_gib: float, world_size: int, fsdp: bool, measure: Measure
) -> list[str]:
    """Return what to change, one sentence each.

    Args:
        recipe: Recipe of the run.
        memory: Memory of its step.
        usable_gib: Memory of the GPU that can be used, in GiB.
        world_size: Number of ranks.
        fsdp: Whether the ranks shard the weights.
        measure: Function that returns the memory of a changed recipe.
    """
    if memory.total.low <= usable_gib:
        return []
    found = [f"The step does not fit: it needs {memory.total.low:.1f} GiB of {usable_gib:.1f}."]
    for text, changed in _remedies(recipe, memory, usable_gib=usable_gib, world_size=world_size):
        try:
            needed = measure(changed).total.low
        except UserError:
            continue  # such as activation checkpointing of a network without blocks
        found.append(
            f"{text} It then needs {needed:.1f} GiB, and {'fits' if needed <= usable_gib else 'does not fit'}."
        )
    if memory.fixed_gib > usable_gib / 2 and not fsdp:
        found.append(
            f"Weights, gradients and the optimizer's state alone need {memory.fixed_gib:.1f} GiB. Shard them: plan with"
            " --fsdp and more ranks, and launch with recipes/accelerate/fsdp.yaml."
        )
    return found


def _remedies(recipe: Recipe, memory: Memory, *, usable_gib: float, world_size: int) -> Iterator[tuple[str, Recipe]]:
    if recipe.run.mixed_precision in ("auto", "no"):
        text = "Set run.mixed_precision=bf16, which is also faster."
        yield text, _changed(recipe, "run", mixed_precision="bf16")
    most = memory.largest_micro_batch(usable_gib)
    steps = _accumulation(recipe, world_size=world_size, most=most)
    if steps is not None:
        text = f"Set optim.accumulation_steps={steps}, which costs a second forward pass, about a third more time."
        yield text, _changed(recipe, "optim", accumulation_steps=steps)
    if recipe.model.activation_checkpointing == "none":
        text = "Set model.activation_checkpointing=blocks, which also costs a second forward pass."
        yield text, _changed(recipe, "model", activation_checkpointing="blocks")


def _accumulation(recipe: Recipe, *, world_size: int, most: int) -> int | None:
    """Return the fewest micro-batches of at most so many images that divide this rank's batch, None if none do."""
    per_rank = recipe.optim.global_batch_size // world_size
    for steps in range(recipe.optim.accumulation_steps + 1, per_rank // 2 + 1):
        if per_rank % steps == 0 and per_rank // steps <= most:
            return steps
    return None


def _changed(recipe: Recipe, section: str, **keys: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=keys)})
