"""RUN/export: the weights for other programs. Only this module writes and reads its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import BackboneError, WeightsError, file_error
from bt_plugin.models.backbones import Backbone, build_backbone
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.models.own_backbone import Factory, allowed_backbone
from bt_plugin.runs.atomic_file import write_atomically
from bt_plugin.runs.new_path import new_path
from bt_plugin.runs.provenance import versions
from bt_plugin.weights.checkpoint_file import read_safetensors
from bt_plugin.weights.model_file import (
    BACKBONE,
    EXPORT,
    MODEL,
    PROJECTOR,
    DataSection,
    ModelDescription,
    read_model_file,
)
from bt_plugin.weights.safetensors_file import save_tensors
from bt_plugin.weights.tensors import State, check_finite, check_tensors, shown
from bt_plugin.weights.weights import Weights


class ExportFolder(NamedTuple):
    """The content of an export: description, backbone weights, and projector weights or None."""

    description: ModelDescription
    backbone: State
    projector: State | None


def write_run_export(model: BarlowTwins, recipe: Recipe, *, run_dir: Path, step: int) -> Path:
    """Write RUN/export and return the folder. An earlier export of the run is replaced, file by file.

    The backbone has the keys of torchvision or timm, without those of the classifier.

    Args:
        model: The trained model.
        recipe: The run's recipe, which model.json stores.
        run_dir: The run's directory.
        step: Number of steps that the model was trained for.

    Raises:
        FileError: If a file cannot be written.
    """
    folder = run_dir / EXPORT
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise file_error(error, folder) from error
    _write(folder, model.backbone.state_dict(), model.projector.state_dict(), _describe_run(model, recipe, step))
    return folder


def write_imported_export(weights: Weights, folder: Path, source: Path) -> None:
    """Write weights of another program as a new folder of the same layout. It appears only when complete.

    Args:
        weights: The weights that were read.
        folder: The new folder.
        source: The file that the weights were read from, for model.json.

    Raises:
        FileError: If the folder exists or cannot be written.
    """
    with new_path(folder, "-o") as partial:
        partial.mkdir()
        _write(partial, weights.backbone, weights.projector, _describe_imported(weights, source))


def read_export(folder: Path) -> ExportFolder:
    """Read model.json and the weights next to it, and check each of them.

    Raises:
        WeightsError: If a file is damaged, or weights cannot be used.
        FileError: If a file cannot be opened.
    """
    projector = folder / PROJECTOR
    return ExportFolder(
        read_model_file(folder),
        _read_state(folder / BACKBONE),
        _read_state(projector) if projector.exists() else None,
    )


def load_backbone(folder: str | Path, backbone: str | Factory | None = None) -> Backbone:
    """Return the exported backbone with its trained weights, from RUN/export.

    Args:
        folder: The folder with model.json.
        backbone: Function that builds a network of your own, or the function's name. It is not imported only because
            model.json names it.

    Raises:
        FileError: If a file of the export cannot be opened.
        WeightsError: If a file is damaged, the weights do not fit the model, or ``backbone`` is needed.
        BackboneError: If your function does not build a backbone.
    """
    return build_exported(Path(folder), read_export(Path(folder)), backbone)


def build_exported(folder: Path, export: ExportFolder, given: str | Factory | None) -> Backbone:
    """Build the backbone of an export that was read, as load_backbone does."""
    description, state, _ = export
    model = description.model
    name = allowed_backbone(model.backbone, given, sha256=model.backbone_sha256, file=folder / MODEL)
    size_px = description.eval_view.size_px if description.eval_view else 224
    try:
        backbone = build_backbone(name, stem=model.stem, in_chans=model.in_chans, args=model.args, size_px=size_px)
        backbone.module.load_state_dict(state)
    except BackboneError:
        raise
    except (ValueError, RuntimeError) as error:
        raise mismatch(folder, shown(" ".join(str(error).split()), most=300)) from error
    return backbone


def mismatch(folder: Path, difference: str) -> WeightsError:
    """Return the error for weights that do not fit the backbone in model.json."""
    return WeightsError(
        f"{folder / BACKBONE} does not fit the backbone of {folder / MODEL}: {difference}. Copy the folder again, or"
        " export or import the weights again"
    )


def _write(
    folder: Path, backbone: Mapping[str, Tensor], projector: Mapping[str, Tensor] | None, description: dict[str, Any]
) -> None:
    for name, state in ((BACKBONE, backbone), (PROJECTOR, projector)):
        if state is not None:
            save_tensors(state, folder / name)
    write_atomically(folder / MODEL, json.dumps(description | {"versions": versions()}, indent=2) + "\n")


def _read_state(path: Path) -> State:
    state = read_safetensors(path)
    check_tensors(state, path)
    check_finite(state, path)
    return state


def _describe_run(model: BarlowTwins, recipe: Recipe, step: int) -> dict[str, Any]:
    linears = [layer for layer in model.projector if isinstance(layer, nn.Linear)]
    resolved = recipe.resolved_dict()
    return {
        "method": "barlow_twins",
        "model": resolved["model"],
        "data": {key: resolved["data"][key] for key in DataSection.model_fields},
        "feature_dim": linears[0].in_features,
        "embedding_dim": linears[-1].out_features,
        "views": resolved["views"],
        "eval_view": asdict(recipe.preset.eval_params()),
        "loss": resolved["loss"],
        "optim": resolved["optim"],
        "seed": recipe.run.seed,
        "step": step,
    }


def _describe_imported(weights: Weights, source: Path) -> dict[str, Any]:
    """Describe what is known, with null for the rest. Other methods also use the layouts of Lightly and solo-learn."""
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
