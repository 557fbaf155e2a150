"""How much disk the checkpoints of a run need."""

from __future__ import annotations

from bt_plugin.config.recipe import Recipe
from bt_plugin.optim.from_recipe import STATES


def checkpoint_bytes(recipe: Recipe, model_bytes: float) -> float:
    """Return the bytes of one checkpoint: the weights and the optimizer's state.

    Args:
        recipe: Recipe of the run.
        model_bytes: Bytes of the model's weights.
    """
    return (1 + STATES[recipe.optim.name]) * model_bytes


def kept_checkpoints(recipe: Recipe) -> int:
    """Return how many checkpoints the run keeps. Another one is written before the oldest is removed."""
    return recipe.run.keep_checkpoints + (recipe.optim.schedule == "wsd")
