"""Weights for other programs: safetensors in the libraries' own key names, and how to rebuild the model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from bt_plugin.backbones import Backbone, build_backbone
from bt_plugin.method import BarlowTwins
from bt_plugin.recipe import Recipe
from bt_plugin.rundir import EXPORT, MODEL, write_atomically
from bt_plugin.tensors import save_tensors
from bt_plugin.versions import versions


def export_model(model: BarlowTwins, recipe: Recipe, run_dir: Path, step: int) -> Path:
    """Writes RUN/export/{backbone,projector}.safetensors and model.json, and returns the folder.

    The backbone's keys are those of torchvision or timm, without the classifier's.
    """
    folder = run_dir / EXPORT
    folder.mkdir(exist_ok=True)
    for name, module in (("backbone", model.backbone), ("projector", model.projector)):
        partial = folder / f".{name}.partial"
        save_tensors(module.state_dict(), partial)
        partial.replace(folder / f"{name}.safetensors")
    write_atomically(folder / MODEL, json.dumps(_description(model, recipe, step), indent=2) + "\n")
    return folder


def load_backbone(folder: str | Path) -> Backbone:
    """The exported backbone with its trained weights, from RUN/export.

    Raises:
        OSError: If the folder has no export in it.
    """
    folder = Path(folder)
    description = json.loads((folder / MODEL).read_text(encoding="utf-8"))
    model = description["model"]
    backbone = build_backbone(model["backbone"], model["stem"], model["in_chans"])
    backbone.module.load_state_dict(load_file(folder / "backbone.safetensors"))
    return backbone


def _description(model: BarlowTwins, recipe: Recipe, step: int) -> dict[str, Any]:
    linears = [layer for layer in model.projector if isinstance(layer, nn.Linear)]
    resolved = recipe.resolved_dict()
    return {
        "method": "barlow_twins",
        "model": resolved["model"],
        "feature_dim": linears[0].in_features,
        "embedding_dim": linears[-1].out_features,
        "views": resolved["views"],
        "eval_view": asdict(recipe.preset.eval_params()),
        "loss": resolved["loss"],
        "optim": resolved["optim"],
        "seed": recipe.run.seed,
        "step": step,
        "versions": versions(),
    }
