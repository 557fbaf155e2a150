"""`import`: other programs' weights in the layout of a run's export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bt_plugin.errors import WeightsError


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("import", help="take over a checkpoint of the official code, Lightly or solo-learn")
    parser.add_argument("file", help="a checkpoint, or a state dict of torchvision or timm")
    parser.add_argument("-o", "--output", help="a new folder (default imported/NAME)")
    parser.add_argument("--backbone", help="torchvision/NAME or timm/NAME, where the keys do not tell")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes OUTPUT/backbone.safetensors, projector.safetensors and model.json, and says what was left out."""
    from bt_plugin.versions import versions
    from bt_plugin.weights import OWN, read_weights
    from bt_plugin.weights.folder import write_folder

    source = Path(arguments.file)
    folder = Path(arguments.output or Path("imported", source.stem))
    weights = read_weights(source, arguments.backbone)
    if weights.kind == OWN:
        export = source / "export" if (source / "export").is_dir() else source
        raise WeightsError(f"{source} needs no import: {export} has this layout already; name it where it is needed")
    write_folder(weights, folder, source, versions())
    model = f"{weights.backbone_name}, stem {weights.stem}, in_chans {weights.in_chans}"
    print(f"{source}: {weights.kind}, {model}, {'projector' if weights.projector else 'no projector'}")
    print(f"  left out  {'; '.join(weights.dropped) or 'nothing'}")
    print(f"  written   {folder}/backbone.safetensors, model.json{', projector.safetensors' * bool(weights.projector)}")
