"""`import`: convert weights of other programs into the layout of a run's export."""

from __future__ import annotations

import argparse
from typing import Any

from bt_plugin import api


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("import", help="convert a checkpoint of the official code, Lightly or solo-learn")
    parser.add_argument("file", help="checkpoint, or state dict of torchvision or timm")
    parser.add_argument("-o", "--output", help="new folder (default imported/NAME)")
    parser.add_argument("--backbone", help="torchvision/NAME, timm/NAME or module:function, if the keys do not tell it")
    parser.add_argument("--prefix", help="first part of the network's keys, if a file has several networks")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write OUTPUT/backbone.safetensors, projector.safetensors and model.json, and print what was left out."""
    folder, weights = api.import_weights(
        arguments.file, arguments.output, backbone=arguments.backbone, prefix=arguments.prefix
    )
    model = f"{weights.backbone_name}, stem {weights.stem}, in_chans {weights.in_chans}"
    print(f"{arguments.file}: {weights.kind}, {model}, {'projector' if weights.projector else 'no projector'}")
    print(f"  left out  {'; '.join(weights.dropped) or 'nothing'}")
    print(f"  written   {folder}/backbone.safetensors, model.json{', projector.safetensors' * bool(weights.projector)}")
