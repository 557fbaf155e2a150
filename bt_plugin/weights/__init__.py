"""Weights from other programs: which file it is, which backbone, and both in torchvision's or timm's keys."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from bt_plugin.backbones import Stem
from bt_plugin.errors import WeightsError
from bt_plugin.rundir import EXPORT, MODEL
from bt_plugin.weights.architecture import fit_backbone
from bt_plugin.weights.files import read_tensors
from bt_plugin.weights.layouts import split
from bt_plugin.weights.projectors import to_official

OWN = "bt-plugin"


@dataclass(frozen=True)
class Weights:
    """A backbone's weights, and its projector's where the file has one that fits.

    Args:
        kind: Whose layout the file had: official, lightly, solo-learn, state-dict, or bt-plugin for our own.
        backbone_name: "torchvision/NAME" or "timm/NAME".
        stem: standard or small, as in build_backbone.
        in_chans: Channels of the images.
        backbone: float32, in its library's own keys, without a classifier.
        projector: In the keys of build_projector, or None.
        dropped: What else was in the file, in words.
        feature_dim: Of the backbone.
    """

    kind: str
    backbone_name: str
    stem: Stem
    in_chans: int
    backbone: dict[str, Tensor]
    projector: dict[str, Tensor] | None
    dropped: list[str]
    feature_dim: int


def read_weights(path: str | Path, backbone: str | None = None) -> Weights:
    """Reads a checkpoint, a state dict or an export. No code of the file is run.

    Args:
        path: A file of torch.save or safetensors, or a folder that a run or `import` has written.
        backbone: "torchvision/NAME" or "timm/NAME"; needed where keys and shapes are no ResNet's of torchvision.

    Raises:
        WeightsError: If it cannot be read, holds more than tensors, or does not fit the backbone.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    tensors, outside = read_tensors(path)
    parts = split(tensors, path)
    fitted = fit_backbone(parts.backbone, backbone, path)
    projector, changed = to_official(parts.projector, fitted.feature_dim)
    return Weights(
        kind=parts.kind,
        backbone_name=fitted.name,
        stem=fitted.stem,
        in_chans=fitted.in_chans,
        backbone=fitted.state,
        projector=projector,
        dropped=[*outside, *parts.dropped, *fitted.dropped, *changed],
        feature_dim=fitted.feature_dim,
    )


def _read_folder(path: Path) -> Weights:
    folder = path / EXPORT if (path / EXPORT / MODEL).is_file() else path
    if not (folder / MODEL).is_file():
        raise WeightsError(
            f"{path} is a folder without an export; name a file, or the directory of a run that is finished"
        )
    description = json.loads((folder / MODEL).read_text(encoding="utf-8"))
    model = description["model"]
    projector = folder / "projector.safetensors"
    return Weights(
        kind=OWN,
        backbone_name=model["backbone"],
        stem=model["stem"],
        in_chans=model["in_chans"],
        backbone=load_file(folder / "backbone.safetensors"),
        projector=load_file(projector) if projector.is_file() else None,
        dropped=[],
        feature_dim=description["feature_dim"],
    )
