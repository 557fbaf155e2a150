"""Two-view loaders on NVIDIA DALI, for any self-supervised method and any training loop.

The names are imported on first use: the presets are read by programs that must answer before torch
is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_pipelines.errors import BadImageError
    from dali_pipelines.loaders import Batch, EvalBatch, EvalLoader, TwoViewLoader
    from dali_pipelines.params import PRESETS, EvalParams, Preset, Tuning, ViewParams
    from dali_pipelines.sources import (
        ImageSource,
        array_source,
        file_list,
        flat_folder,
        image_folder,
        open_source,
        tar_shards,
    )

__all__ = [
    "PRESETS",
    "BadImageError",
    "Batch",
    "EvalBatch",
    "EvalLoader",
    "EvalParams",
    "ImageSource",
    "Preset",
    "Tuning",
    "TwoViewLoader",
    "ViewParams",
    "array_source",
    "file_list",
    "flat_folder",
    "image_folder",
    "open_source",
    "tar_shards",
]

_MODULES = ("errors", "loaders", "params", "sources")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            if hasattr(found := import_module(f"{__name__}.{module}"), name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
