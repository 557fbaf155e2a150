"""The steps of a recipe and of its changes, traced on the same ranks and for the same GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bt_plugin.config.recipe import Recipe
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.planning.largest_batch import largest_micro_batch, with_loss_of
from bt_plugin.planning.memory import Memory, step_memory
from bt_plugin.planning.traced_step import TracedStep, trace_loss, trace_step

# Images for which the loss is traced, which takes time for each block of them. Beyond, its memory grows evenly.
_MOST_OF_LOSS = 2**15


@dataclass(frozen=True, kw_only=True)
class StepTracer:
    """Traces steps of recipes.

    Args:
        usable_gib: Memory of the GPU that is free, in GiB.
        world_size: Number of ranks.
        fsdp: Whether the ranks shard the weights.
        build: Function that builds the model. Default: the recipe's.
    """

    usable_gib: float
    world_size: int
    fsdp: bool
    build: Callable[[], BarlowTwins] | None = None

    def step(self, recipe: Recipe, *, times: int = 1) -> TracedStep:
        """Return the traced step.

        Args:
            recipe: Recipe of the step.
            times: Factor of the micro-batch, 1 or more.
        """
        size = times * recipe.batch_size_per_rank(self.world_size) // recipe.optim.accumulation_steps
        return trace_step(recipe, micro_batch_size=size, world_size=self.world_size, fsdp=self.fsdp, build=self.build)

    def memory(self, recipe: Recipe) -> Memory:
        """Return the memory of a step."""
        return step_memory(recipe, self.step(recipe))

    def two_sizes(self, recipe: Recipe) -> tuple[TracedStep, TracedStep]:
        """Return the step with the recipe's micro-batch and with a larger one, for largest_micro_batch."""
        step, larger = self.step(recipe), self.step(recipe, times=2)
        most = largest_micro_batch(recipe, step, larger, usable_gib=self.usable_gib)
        size = min(most, _MOST_OF_LOSS)
        if size <= step.micro_batch_size:
            return step, larger
        of_loss = trace_loss(recipe, micro_batch_size=size, world_size=self.world_size)
        return step, with_loss_of(step, larger, micro_batch_size=size, loss_bytes=of_loss)

    def largest_micro_batch(self, recipe: Recipe) -> int:
        """Return the most images of one forward pass that fit, 0 if two do not."""
        return largest_micro_batch(recipe, *self.two_sizes(recipe), usable_gib=self.usable_gib)
