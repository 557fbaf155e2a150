"""Check before a run that its model can embed its views, by a forward pass on the meta device, without memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import psutil
import torch
from torch import Tensor, nn

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError, UserError
from bt_plugin.models.activation_checkpointing import checkpoint_activations
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.models.from_recipe import build_model
from bt_plugin.optim.from_recipe import STATES, build_groups


def check_model(recipe: Recipe, build: Callable[[], BarlowTwins] | None = None) -> None:
    """Raise if the model does not exist, does not fit into memory, or cannot embed views of the recipe's size.

    Args:
        recipe: Recipe of the run.
        build: Function that builds its model. Default: build_model of the recipe.

    Raises:
        RecipeError: If the run would fail at its first step. The message names the key and quotes the network's error.
        BackboneError: If the user's function does not build a backbone.
    """
    build = build or partial(build_model, recipe)
    _check_weights(sum(inputs * outputs for inputs, outputs in pairwise(recipe.model.projector)), recipe)
    try:
        _try(recipe, build, torch.device("meta"))
    except RecipeError:
        raise
    except Exception:  # some networks cannot run on meta; then the CPU decides
        try:
            _try(recipe, build, torch.device("cpu"))
        except UserError:
            raise
        except Exception as error:
            raise RecipeError(_explained(recipe, error)) from error


def _try(recipe: Recipe, build: Callable[[], BarlowTwins], device: torch.device) -> None:
    with device:
        model = build()
    _check_weights(sum(each.numel() for each in model.parameters()), recipe)
    build_groups(recipe.optim, model)
    checkpoint_activations(model.backbone, recipe.model.activation_checkpointing, compiled=recipe.run.compile)
    model.train()
    with torch.no_grad():
        for view in recipe.preset.views:
            features = model.backbone(torch.zeros(2, view.channels, view.size_px, view.size_px, device=device))
            _check_features(features, model, recipe)
            model.projector(features)


def _check_features(features: object, model: BarlowTwins, recipe: Recipe) -> None:
    first = next(layer for layer in model.projector if isinstance(layer, nn.Linear))
    if not isinstance(features, Tensor):
        found = f"a {type(features).__name__}"
    elif features.shape != (2, first.in_features):
        found = f"shape {tuple(features.shape)}"
    else:
        return
    raise RecipeError(
        f"model.backbone: {recipe.model.backbone} returns {found} for two images, and must return one tensor of"
        f" shape (2, {first.in_features}); use another backbone"
    )


def _check_weights(parameters: int, recipe: Recipe) -> None:
    on_gpu = torch.cuda.is_available() and recipe.run.device != "cpu"
    memory = torch.cuda.mem_get_info()[1] if on_gpu else psutil.virtual_memory().total
    # Memory holds weights, gradients and the optimizer's state.
    needed = (2 + STATES[recipe.optim.name]) * 4 * parameters
    if needed > memory:
        raise RecipeError(
            f"model.projector: {recipe.model.projector} and {recipe.model.backbone} have {parameters:,} weights. With"
            f" gradients and the optimizer's state they need {needed / 2**30:,.0f} GiB, and this machine has"
            f" {memory / 2**30:,.0f} GiB; use narrower layers"
        )


def _explained(recipe: Recipe, error: Exception) -> str:
    sizes = " and ".join(dict.fromkeys(f"{view.size_px} px" for view in recipe.preset.views))
    says = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    argument = "img_size" if recipe.model.backbone.startswith("timm/") else "image_size"
    return (
        f"model.backbone: {recipe.model.backbone} cannot embed views of {sizes} with {recipe.model.in_chans}"
        f" channel(s): {says}; use the size that it is made for (views.both.size_px=224 for most), or pass"
        f" the size to its constructor if that takes it (model.args.{argument}={recipe.preset.views[0].size_px}), or"
        " use another backbone"
    )
