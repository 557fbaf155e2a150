"""Barlow Twins for the Lightly ecosystem, fed by NVIDIA DALI and launched by Accelerate.

The names are imported on first use, so that a mistyped recipe is answered before torch is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bt_plugin.backbones import build_backbone
    from bt_plugin.integrations.lightly_train import register
    from bt_plugin.loss import BarlowTwinsLoss
    from bt_plugin.method import BarlowTwins, build_projector
    from bt_plugin.optim import LARS, lr_scale, parameter_groups
    from bt_plugin.transform import BarlowTwinsTransform

__version__ = "0.1.0"

__all__ = [
    "LARS",
    "BarlowTwins",
    "BarlowTwinsLoss",
    "BarlowTwinsTransform",
    "build_backbone",
    "build_projector",
    "lr_scale",
    "parameter_groups",
    "register",
]

_MODULES = ("backbones", "loss", "method", "optim", "transform", "integrations.lightly_train")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            if hasattr(found := import_module(f"{__name__}.{module}"), name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
