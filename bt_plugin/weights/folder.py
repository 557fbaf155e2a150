"""Write and read weights on the disk in the layout of a run's export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bt_plugin.errors import WeightsError
from bt_plugin.runs.atomic_file import write_atomically
from bt_plugin.runs.model_file import MODEL, ModelDescription, read_model_file
from bt_plugin.runs.new_path import new_path
from bt_plugin.tensors import save_tensors
from bt_plugin.weights.files import read_safetensors
from bt_plugin.weights.tensors import State, check_finite, check_tensors

if TYPE_CHECKING:
    from bt_plugin.weights import Weights

BACKBONE = "backbone.safetensors"
PROJECTOR = "projector.safetensors"


class Folder(NamedTuple):
    """What an export has: its description, its backbone's weights, and its projector's where it has one."""

    description: ModelDescription
    backbone: State
    projector: State | None


def read_folder(folder: Path) -> Folder:
    """Read model.json and the weights beside it, each checked for itself.

    Raises:
        WeightsError: If a file is damaged, or weights cannot be used.
        FileError: If a file cannot be opened.
    """
    projector = folder / PROJECTOR
    return Folder(
        read_model_file(folder),
        _read_state(folder / BACKBONE),
        _read_state(projector) if projector.exists() else None,
    )


def mismatch(folder: Path, difference: str) -> WeightsError:
    """Return the error for weights that are not of the backbone which model.json describes."""
    return WeightsError(
        f"{folder / BACKBONE} does not fit the backbone of {folder / MODEL}: {difference}; copy the folder again, or"
        " export or import the weights again"
    )


def write_folder(weights: Weights, folder: Path, source: Path, versions: dict[str, str]) -> None:
    """Write backbone.safetensors, projector.safetensors if there is one, and model.json.

    The folder is there whole or not at all.

    Args:
        weights: What was read.
        folder: A new one.
        source: The file that they were read from.
        versions: Versions of the packages, for model.json.

    Raises:
        FileError: If the folder exists or cannot be written.
    """
    with new_path(folder, "-o") as partial:
        partial.mkdir()
        for name, state in ((BACKBONE, weights.backbone), (PROJECTOR, weights.projector)):
            if state is not None:
                save_tensors(state, partial / name)
        description = _description(weights, source) | {"versions": versions}
        write_atomically(partial / MODEL, json.dumps(description, indent=2) + "\n")


def _read_state(path: Path) -> State:
    state = read_safetensors(path)
    check_tensors(state, path)
    check_finite(state, path)
    return state


def _description(weights: Weights, source: Path) -> dict[str, Any]:
    """Describe what is known, with null for the rest: other methods have the layouts of Lightly and solo-learn, too."""
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
