"""Write a folder as on the Hugging Face Hub, which timm loads: weights, configuration, and a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from bt_plugin.formats.card import model_card
from bt_plugin.formats.exported import Exported
from bt_plugin.formats.libraries import as_model_of
from bt_plugin.formats.timm import model_args
from bt_plugin.runs.atomic_file import write_atomically
from bt_plugin.weights.safetensors_file import save_tensors

SUFFIX = "_hf"


def write(exported: Exported, path: Path) -> None:
    """Write config.json, model.safetensors and README.md.

    Raises:
        WeightsError: If timm has no such model.
    """
    module = as_model_of("timm", exported)
    path.mkdir()
    save_tensors(module.state_dict(), path / "model.safetensors")
    write_atomically(path / "config.json", json.dumps(_config(exported, module), indent=2) + "\n")
    write_atomically(path / "README.md", model_card(exported))


def usage(exported: Exported, path: Path) -> str:
    """Return the code with which timm loads it."""
    return (
        f"timm.create_model('local-dir:{path}', pretrained=True, num_classes=0)\n"
        f"# README.md names no license. Add yours before you publish the folder"
    )


def _config(exported: Exported, module: nn.Module) -> dict[str, Any]:
    """Return the configuration from which timm rebuilds the model.

    Source:
        The keys: timm 1.0.31, models/_hub.py:345-448, and 1.0.15, models/_hub.py:256-302.
    """
    import timm

    own = getattr(module, "pretrained_cfg", None) or timm.get_pretrained_cfg(exported.architecture).to_dict()
    pretrained_cfg = {
        "num_classes": 0,
        "input_size": [exported.in_chans, exported.size_px, exported.size_px],
        "fixed_input_size": own.get("fixed_input_size", False),
        "first_conv": own.get("first_conv"),
        "classifier": own.get("classifier"),
    }
    if (view := exported.eval_view) and (normalization := exported.mean_and_std()):
        mean, std = normalization
        crop = {"crop_pct": crop_pct(view.size_px, view.resize_px), "crop_mode": "center"}
        pretrained_cfg |= {"interpolation": view.interpolation, "mean": mean, "std": std, **crop}
    config = {
        "architecture": exported.architecture,
        "num_classes": 0,
        "num_features": exported.description.feature_dim,
        "pretrained_cfg": pretrained_cfg,
    }
    args = model_args(exported)
    return config | ({"model_args": args} if args else {})


def crop_pct(size_px: int, resize_px: int) -> float:
    """Return timm's fraction for a center crop of size_px out of resize_px.

    timm divides size_px by the fraction and rounds down. For some sizes this would be a pixel too few.
    """
    fraction = size_px / resize_px
    return fraction if int(size_px / fraction) == resize_px else size_px / (resize_px + 0.5)
