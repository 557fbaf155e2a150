"""What to change if a step does not fit, cheapest first. Each remedy is traced, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import UserError
from bt_plugin.planning.memory import CONTEXT_GIB, Memory
from bt_plugin.planning.step_tracer import StepTracer

# Numbers of micro-batches that are tried.
_MOST_TRIALS = 3


class _Remedy(NamedTuple):
    """A changed recipe.

    Args:
        keys: The keys to set.
        cost: What it costs.
        needed_gib: GPU memory of the changed step.
    """

    keys: str
    cost: str
    needed_gib: float

    def said(self, usable_gib: float) -> str:
        verdict = "fits" if self.needed_gib <= usable_gib else "does not fit"
        return f"Set {self.keys}, which {self.cost}. It then needs {self.needed_gib:.1f} GiB, and {verdict}."


def advice(recipe: Recipe, memory: Memory, tracer: StepTracer, *, most: int) -> list[str]:
    """Return what to change, one sentence each, the cheapest first. Nothing if the step fits.

    Args:
        recipe: Recipe of the run.
        memory: Memory of its step.
        tracer: Tracer of changed steps.
        most: Most images of one forward pass that fit.
    """
    usable_gib = tracer.usable_gib
    if memory.total.low <= usable_gib:
        return []
    remedies = list(_remedies(recipe, tracer, most))
    found = [f"The step does not fit: it needs {memory.total.low:.1f} GiB of {usable_gib:.1f}."]
    found += [remedy.said(usable_gib) for remedy in remedies]
    state_gib = memory.fixed_gib - CONTEXT_GIB
    if state_gib > usable_gib / 2 and not tracer.fsdp:
        found.append(
            f"Weights, gradients and the optimizer's state alone need {state_gib:.1f} GiB. Shard them: plan with"
            " --fsdp and more ranks, and launch with recipes/accelerate/fsdp.yaml."
        )
    if all(remedy.needed_gib > usable_gib for remedy in remedies):
        found.append(
            "If nothing of this is enough, use more ranks, a larger GPU, or a smaller optim.global_batch_size."
        )
    return found


def _remedies(recipe: Recipe, tracer: StepTracer, most: int) -> Iterator[_Remedy]:
    """Yield each remedy alone, and all together if none fits."""
    together, keys = recipe, []
    fits = False
    for key, cost, changed in _changes(recipe):
        try:
            remedy = _Remedy(key, cost, tracer.memory(changed(recipe)).total.low)
        except UserError:
            continue  # such as activation checkpointing of a network without blocks
        yield remedy
        together, fits = changed(together), fits or remedy.needed_gib <= tracer.usable_gib
        keys.append(key)
    for remedy in _accumulated(recipe, tracer, most):
        yield remedy
        fits = fits or remedy.needed_gib <= tracer.usable_gib
    if not fits and keys:
        needed_gib = tracer.memory(together).total.low
        yield _Remedy(" and ".join(keys), "costs what each of them costs", needed_gib)
        if needed_gib > tracer.usable_gib:
            yield from _accumulated(together, tracer, tracer.largest_micro_batch(together), keys)


def _changes(recipe: Recipe) -> Iterator[tuple[str, str, Callable[[Recipe], Recipe]]]:
    if recipe.run.mixed_precision in ("auto", "no"):
        yield "run.mixed_precision=bf16", "is also faster", lambda r: _changed(r, "run", mixed_precision="bf16")
    if recipe.model.activation_checkpointing == "none":
        yield (
            "model.activation_checkpointing=blocks",
            "costs a second forward pass, about a third more time",
            lambda r: _changed(r, "model", activation_checkpointing="blocks"),
        )


def _accumulated(recipe: Recipe, tracer: StepTracer, most: int, keys: Sequence[str] = ()) -> Iterator[_Remedy]:
    """Yield the fewest micro-batches that fit, or the last that were tried. The keys are changed already."""
    per_rank = recipe.optim.global_batch_size // tracer.world_size
    steps = range(recipe.optim.accumulation_steps + 1, per_rank // 2 + 1)
    candidates = (count for count in steps if per_rank % count == 0 and per_rank // count <= most)
    remedy = None
    for count in islice(candidates, _MOST_TRIALS):
        needed_gib = tracer.memory(_changed(recipe, "optim", accumulation_steps=count)).total.low
        chosen = " and ".join([*keys, f"optim.accumulation_steps={count}"])
        remedy = _Remedy(chosen, "costs a second forward pass, about a third more time", needed_gib)
        if needed_gib <= tracer.usable_gib:
            break
    if remedy is not None:
        yield remedy


def _changed(recipe: Recipe, section: str, **keys: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=keys)})
