"""Runs that are exported, without training them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bt_plugin.config.recipe import Recipe
from bt_plugin.models.from_recipe import build_model
from bt_plugin.weights.export_folder import load_backbone, write_run_export

KNN = {"raw": 0.4654, "untrained": 0.6635, "calibrated": 0.769, "pretrained": 0.8404}


def exported(run_dir: Path, summary: dict[str, Any] | None = None, size_px: int = 48, **model: Any) -> Path:
    """A run's directory after training, whose BatchNorms have seen data."""
    run_dir.mkdir(parents=True)
    content = {
        "data": {"train": "/home/somebody/pictures/train", "val": "pictures/val"},
        "model": {"projector": [16, 8], **model},
        "views": {"both": {"size_px": size_px}},
        "run": {"output_dir": str(run_dir), "seed": 7},
    }
    recipe = Recipe.model_validate(content)
    network = build_model(recipe)
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.ndim == 1:
            low = 0.5 if name.endswith(("weight", "running_var")) else -0.5
            value.copy_(low + torch.rand(value.shape, generator=generator))
    write_run_export(network, recipe, run_dir=run_dir, step=144)
    (run_dir / "recipe.yaml").write_text(recipe.to_yaml())
    if summary:
        (run_dir / "summary.json").write_text(json.dumps(summary))
    return run_dir


def images_for(channels: int = 3, count: int = 2) -> Tensor:
    return torch.randn(count, channels, 48, 48, generator=torch.Generator().manual_seed(1))


def features(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return module.eval()(images)


def source_features(run: Path, images: Tensor) -> Tensor:
    return features(load_backbone(run / "export").module, images)
