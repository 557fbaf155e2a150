"""Imported weights on the disk, in the layout of a run's export."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bt_plugin.errors import WeightsError
from bt_plugin.rundir import MODEL, write_atomically
from bt_plugin.tensors import save_tensors

if TYPE_CHECKING:
    from bt_plugin.weights import Weights


def write_folder(weights: Weights, folder: Path, source: Path, versions: dict[str, str]) -> None:
    """Writes backbone.safetensors, projector.safetensors if there is one, and model.json.

    The folder is there whole or not at all.

    Args:
        weights: What was read.
        folder: A new one.
        source: The file that they were read from.
        versions: Of the packages, for model.json.

    Raises:
        WeightsError: If the folder exists.
    """
    if folder.exists():
        raise WeightsError(f"-o: {folder} exists, and is not overwritten; name another folder, or remove it")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, state in (("backbone", weights.backbone), ("projector", weights.projector)):
        if state is not None:
            save_tensors(state, partial / f"{name}.safetensors")
    description = _description(weights, source) | {"versions": versions}
    write_atomically(partial / MODEL, json.dumps(description, indent=2) + "\n")
    os.rename(partial, folder)


def _description(weights: Weights, source: Path) -> dict[str, Any]:
    """What is known, and null for what is not: other methods have the layouts of Lightly and solo-learn, too."""
    widths = None
    if weights.projector is not None:
        widths = [value.shape[0] for value in weights.projector.values() if value.ndim == 2]
    return {
        "method": "barlow_twins" if weights.kind == "official" else None,
        "source": {"kind": weights.kind, "file": str(source), "dropped": weights.dropped},
        "model": {
            "backbone": weights.backbone_name,
            "stem": weights.stem,
            "in_chans": weights.in_chans,
            "projector": widths,
        },
        "feature_dim": weights.feature_dim,
        "embedding_dim": widths[-1] if widths else None,
    }
