"""Barlow Twins pretraining for the Lightly ecosystem, with views from NVIDIA DALI and ranks from Accelerate.

The names in ``__all__`` are imported on first use. The command line can therefore report a mistake in a recipe before
torch is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bt_plugin.version import __version__

if TYPE_CHECKING:
    from bt_plugin.api import (
        check,
        embed,
        evaluate,
        export,
        import_weights,
        list_recipes,
        load_backbone,
        plan,
        pretrain,
    )
    from bt_plugin.config.recipe import Recipe
    from bt_plugin.config.recipe_file import load_recipe
    from bt_plugin.integrations.lightly_train import register
    from bt_plugin.loss.barlow_twins import BarlowTwinsLoss
    from bt_plugin.models.backbones import build_backbone
    from bt_plugin.models.barlow_twins import BarlowTwins, build_projector
    from bt_plugin.monitoring.callback import Callback
    from bt_plugin.optim.lars import LARS
    from bt_plugin.optim.parameter_groups import parameter_groups
    from bt_plugin.optim.schedule import lr_scale
    from bt_plugin.runs.summary import Summary
    from dali_pipelines.pil.transform import BarlowTwinsTransform

_MODULES = {
    "LARS": "bt_plugin.optim.lars",
    "BarlowTwins": "bt_plugin.models.barlow_twins",
    "BarlowTwinsLoss": "bt_plugin.loss.barlow_twins",
    "BarlowTwinsTransform": "dali_pipelines.pil.transform",
    "Callback": "bt_plugin.monitoring.callback",
    "Recipe": "bt_plugin.config.recipe",
    "Summary": "bt_plugin.runs.summary",
    "build_backbone": "bt_plugin.models.backbones",
    "build_projector": "bt_plugin.models.barlow_twins",
    "check": "bt_plugin.api",
    "embed": "bt_plugin.api",
    "evaluate": "bt_plugin.api",
    "export": "bt_plugin.api",
    "import_weights": "bt_plugin.api",
    "list_recipes": "bt_plugin.api",
    "load_backbone": "bt_plugin.api",
    "load_recipe": "bt_plugin.config.recipe_file",
    "lr_scale": "bt_plugin.optim.schedule",
    "parameter_groups": "bt_plugin.optim.parameter_groups",
    "plan": "bt_plugin.api",
    "pretrain": "bt_plugin.api",
    "register": "bt_plugin.integrations.lightly_train",
}

__all__ = [
    "LARS",
    "BarlowTwins",
    "BarlowTwinsLoss",
    "BarlowTwinsTransform",
    "Callback",
    "Recipe",
    "Summary",
    "__version__",
    "build_backbone",
    "build_projector",
    "check",
    "embed",
    "evaluate",
    "export",
    "import_weights",
    "list_recipes",
    "load_backbone",
    "load_recipe",
    "lr_scale",
    "parameter_groups",
    "plan",
    "pretrain",
    "register",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
