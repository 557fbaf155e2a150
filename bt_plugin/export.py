"""Weights for other programs: safetensors in the libraries' own key names, and how to rebuild the model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from bt_plugin.backbones import Backbone, build_backbone
from bt_plugin.errors import file_error
from bt_plugin.method import BarlowTwins
from bt_plugin.recipe import Recipe
from bt_plugin.runs.atomic_file import write_atomically
from bt_plugin.runs.model_file import EXPORT, MODEL
from bt_plugin.tensors import save_tensors
from bt_plugin.versions import versions
from bt_plugin.weights.folder import BACKBONE, PROJECTOR, mismatch, read_folder
from bt_plugin.weights.tensors import shown


def export_model(model: BarlowTwins, recipe: Recipe, run_dir: Path, step: int) -> Path:
    """Write RUN/export/{backbone,projector}.safetensors and model.json, and return the folder.

    The backbone's keys are those of torchvision or timm, without the classifier's.

    Raises:
        FileError: If a file cannot be written.
    """
    folder = run_dir / EXPORT
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise file_error(error, folder) from error
    for name, module in ((BACKBONE, model.backbone), (PROJECTOR, model.projector)):
        save_tensors(module.state_dict(), folder / name)
    write_atomically(folder / MODEL, json.dumps(_description(model, recipe, step), indent=2) + "\n")
    return folder


def load_backbone(folder: str | Path) -> Backbone:
    """Return the exported backbone with its trained weights, from RUN/export.

    Raises:
        FileError: If a file of the export cannot be opened.
        WeightsError: If a file is damaged, or the weights do not fit the model.
    """
    folder = Path(folder)
    description, state, _ = read_folder(folder)
    model = description.model
    try:
        backbone = build_backbone(model.backbone, model.stem, model.in_chans)
        backbone.module.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        raise mismatch(folder, shown(" ".join(str(error).split()), most=300)) from error
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
