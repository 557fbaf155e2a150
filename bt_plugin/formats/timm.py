"""Write a state dict for a model of timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bt_plugin.errors import WeightsError
from bt_plugin.formats.exported import Exported
from bt_plugin.formats.libraries import as_model_of, write_state
from bt_plugin.models.backbones import timm_args
from bt_plugin.weights.safetensors_file import save_tensors

SUFFIX = "_timm.safetensors"


def write(exported: Exported, path: Path) -> None:
    """Write the backbone as safetensors, or as a file of torch.save if the name ends in .pth.

    Raises:
        WeightsError: If timm has no such model, or the name ends otherwise.
    """
    if path.suffix not in (".safetensors", ".pth"):
        raise WeightsError(
            f"-o: {path.name} must end in .safetensors or .pth, because timm reads the format from the name"
        )
    state = dict(as_model_of("timm", exported).state_dict())
    if path.suffix == ".pth":
        write_state(state, path)
    else:
        save_tensors(state, path)


def usage(exported: Exported, path: Path) -> str:
    """Return the code with which timm loads it."""
    options = "".join(f", {key}={value!r}" for key, value in model_args(exported).items())
    return f"timm.create_model({exported.architecture!r}, num_classes=0{options}, checkpoint_path={str(path)!r})"


def model_args(exported: Exported) -> dict[str, Any]:
    """Return the arguments with which timm builds this model, in addition to its name and the number of classes."""
    args = exported.args if exported.backbone_name.startswith("timm/") else {}
    channels = {"in_chans": exported.in_chans} if exported.in_chans != 3 else {}
    return channels | timm_args(exported.architecture, args)
