"""Build the untrained model that a recipe describes."""

from __future__ import annotations

import torch

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError
from bt_plugin.models.backbones import build_backbone
from bt_plugin.models.barlow_twins import BarlowTwins, build_projector


def build_model(recipe: Recipe) -> BarlowTwins:
    """Build the untrained model of a recipe. The same recipe gives the same weights.

    Args:
        recipe: Recipe of the run. Its section ``model`` and run.seed are used.

    Raises:
        RecipeError: If the backbone does not exist, or does not have the wanted stem.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        choice = recipe.model
        try:
            backbone, feature_dim = build_backbone(
                choice.backbone,
                stem=choice.stem,
                in_chans=choice.in_chans,
                zero_init_residual=choice.zero_init_residual,
            )
        except (ValueError, ImportError) as error:
            raise RecipeError(f"model.backbone: {error}") from error
        return BarlowTwins(backbone, build_projector(feature_dim, choice.projector))
