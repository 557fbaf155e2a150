"""Build the untrained model that a recipe describes."""

from __future__ import annotations

import torch

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError, UserError
from bt_plugin.models.backbone_names import check_backbone_name
from bt_plugin.models.backbones import build_backbone
from bt_plugin.models.barlow_twins import BarlowTwins, build_projector
from bt_plugin.models.own_backbone import Factory


def build_model(recipe: Recipe, *, backbone: Factory | None = None) -> BarlowTwins:
    """Build the untrained model of a recipe. The same recipe gives the same weights.

    Args:
        recipe: Recipe of the run. Its section ``model``, the size of its views and run.seed are used.
        backbone: Function that builds the backbone, as in build_backbone. Default: that of model.backbone, which is
            imported if it is a function of the user's.

    Raises:
        RecipeError: If the backbone does not exist, or does not have the wanted stem.
        BackboneError: If the user's function does not build a backbone.
    """
    choice = recipe.model
    if backbone is None:
        check_backbone_name(choice.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        try:
            built, feature_dim = build_backbone(
                backbone or choice.backbone,
                stem=choice.stem,
                in_chans=choice.in_chans,
                zero_init_residual=choice.zero_init_residual,
                args=choice.args,
                size_px=recipe.preset.views[0].size_px,
            )
        except UserError:
            raise
        except (ValueError, ImportError) as error:
            raise RecipeError(f"model.backbone: {error}") from error
        return BarlowTwins(built, build_projector(feature_dim, choice.projector))
