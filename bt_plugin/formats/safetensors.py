"""Write one file with the backbone in its own keys. Its header says how to build the model."""

from __future__ import annotations

import json
from pathlib import Path

from bt_plugin.formats.exported import Exported
from bt_plugin.weights.safetensors_file import save_tensors

SUFFIX = ".safetensors"


def write(exported: Exported, path: Path) -> None:
    """Write the backbone. The format can hold any backbone."""
    header = {
        "backbone": exported.backbone_name,
        "stem": exported.stem,
        "in_chans": str(exported.in_chans),
        **({"args": json.dumps(exported.args)} if exported.args else {}),
    }
    save_tensors(exported.state(), path, header)


def usage(exported: Exported, path: Path) -> str:
    """Return the code that loads it into build_backbone's model."""
    options = f"{exported.backbone_name!r}, stem={exported.stem!r}, in_chans={exported.in_chans}"
    if exported.args:
        options += f", args={exported.args}"
    return (
        f"backbone = bt_plugin.build_backbone({options})\n"
        f"backbone.module.load_state_dict(safetensors.torch.load_file({str(path)!r}))"
    )
