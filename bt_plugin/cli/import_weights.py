"""`import`: convert weights of other programs into the layout of a run's export."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bt_plugin.errors import WeightsError
from bt_plugin.models.backbone_names import check_backbone_name
from bt_plugin.runs.new_path import check_new
from bt_plugin.weights.model_file import export_folder


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("import", help="convert a checkpoint of the official code, Lightly or solo-learn")
    parser.add_argument("file", help="checkpoint, or state dict of torchvision or timm")
    parser.add_argument("-o", "--output", help="new folder (default imported/NAME)")
    parser.add_argument("--backbone", help="torchvision/NAME or timm/NAME, if the keys do not tell it")
    parser.add_argument("--prefix", help="first part of the network's keys, if a file has several networks")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write OUTPUT/backbone.safetensors, projector.safetensors and model.json, and print what was left out."""
    source = Path(arguments.file)
    folder = Path(arguments.output or Path("imported", source.stem))
    if arguments.backbone is not None:
        check_backbone_name(arguments.backbone, "--backbone")
    check_new(folder, "-o")

    from bt_plugin.weights.export_folder import write_imported_export
    from bt_plugin.weights.read_weights import OWN, read_weights

    weights = read_weights(source, arguments.backbone, prefix=arguments.prefix)
    if weights.kind == OWN:
        export = export_folder(source)
        raise WeightsError(f"{source} needs no import, because {export} already has this layout. Use that path instead")
    write_imported_export(weights, folder, source)
    model = f"{weights.backbone_name}, stem {weights.stem}, in_chans {weights.in_chans}"
    print(f"{source}: {weights.kind}, {model}, {'projector' if weights.projector else 'no projector'}")
    print(f"  left out  {'; '.join(weights.dropped) or 'nothing'}")
    print(f"  written   {folder}/backbone.safetensors, model.json{', projector.safetensors' * bool(weights.projector)}")
