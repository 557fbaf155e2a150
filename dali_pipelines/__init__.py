"""Two-view loaders on NVIDIA DALI, for any self-supervised method and any training loop.

Each name is imported at its first use. So a program can read the presets without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dali_pipelines.backend import Backend
    from dali_pipelines.depth.full_depth import full_depth
    from dali_pipelines.errors import BadImageError
    from dali_pipelines.eval_loader import EvalBatch, EvalLoader
    from dali_pipelines.loaders import Batch, TwoViewLoader
    from dali_pipelines.sources import (
        ImageSource,
        array_source,
        file_list,
        flat_folder,
        image_folder,
        open_source,
        parquet_files,
        saved_dataset,
        several_sources,
        tar_shards,
    )
    from dali_pipelines.sources.datasets import dataset_source
    from dali_pipelines.views.params import PRESETS, EvalParams, Preset, Tuning, ViewParams

_MODULES = {
    "PRESETS": "dali_pipelines.views.params",
    "Backend": "dali_pipelines.backend",
    "BadImageError": "dali_pipelines.errors",
    "Batch": "dali_pipelines.loaders",
    "EvalBatch": "dali_pipelines.eval_loader",
    "EvalLoader": "dali_pipelines.eval_loader",
    "EvalParams": "dali_pipelines.views.params",
    "ImageSource": "dali_pipelines.sources",
    "Preset": "dali_pipelines.views.params",
    "Tuning": "dali_pipelines.views.params",
    "TwoViewLoader": "dali_pipelines.loaders",
    "ViewParams": "dali_pipelines.views.params",
    "array_source": "dali_pipelines.sources",
    "dataset_source": "dali_pipelines.sources.datasets",
    "file_list": "dali_pipelines.sources",
    "flat_folder": "dali_pipelines.sources",
    "full_depth": "dali_pipelines.depth.full_depth",
    "image_folder": "dali_pipelines.sources",
    "open_source": "dali_pipelines.sources",
    "parquet_files": "dali_pipelines.sources",
    "saved_dataset": "dali_pipelines.sources",
    "several_sources": "dali_pipelines.sources",
    "tar_shards": "dali_pipelines.sources",
}

__all__ = [
    "PRESETS",
    "Backend",
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
    "dataset_source",
    "file_list",
    "flat_folder",
    "full_depth",
    "image_folder",
    "open_source",
    "parquet_files",
    "saved_dataset",
    "several_sources",
    "tar_shards",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
