"""Rebuild the backbone as a model of torchvision or timm."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from bt_plugin.errors import WeightsError
from bt_plugin.formats.exported import Exported
from bt_plugin.models.backbones import build_backbone
from bt_plugin.runs.atomic_file import write_atomically

_KEPT_BY = "Use --to safetensors, onnx or torch-export"


def as_model_of(library: Literal["torchvision", "timm"], exported: Exported) -> nn.Module:
    """Return the backbone as a model of this library, in evaluation mode and with the same features.

    If the other library has an architecture with the same name and keys, compare the features of both on the same
    images, because equal keys do not prove equal features.

    Raises:
        WeightsError: If the library has no such model.
    """
    name = exported.backbone_name
    if exported.stem != "standard":
        raise WeightsError(f"--to {library}: {library} has no {name} with stem: {exported.stem}. {_KEPT_BY}")
    if library == "torchvision" and exported.in_chans != 3:
        raise WeightsError(
            f"--to torchvision: torchvision's models take 3 channels, but this one takes {exported.in_chans}. Use"
            " --to timm, safetensors, onnx or torch-export"
        )
    source = exported.module()
    if name.startswith(f"{library}/"):
        return source
    try:
        target = build_backbone(f"{library}/{exported.architecture}", in_chans=exported.in_chans).module.eval()
        target.load_state_dict(source.state_dict())
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"--to {library}: {library} has no model with the layers of {name}. {_KEPT_BY}") from error
    images = exported.images(2)
    if not torch.allclose(exported.features(source, images), exported.features(target, images), rtol=1e-4, atol=1e-4):
        raise WeightsError(
            f"--to {library}: {library}'s {exported.architecture} has the keys of {name}, but other features."
            f" {_KEPT_BY}"
        )
    return target


def write_state(state: dict[str, Tensor], path: Path) -> None:
    """Write a state dict in the format of torch.save.

    torch.save writes to memory here, because it ends the process if it writes to a full disk itself.

    Raises:
        FileError: If the file cannot be written.
    """
    content = BytesIO()
    torch.save(state, content)
    write_atomically(path, content.getvalue())
