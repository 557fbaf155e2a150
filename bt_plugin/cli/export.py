"""`export`: write a run's backbone in the format of another program."""

from __future__ import annotations

import argparse
from typing import Any

from bt_plugin import api
from bt_plugin.formats import FORMATS


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("export", help="write a run's backbone for another program")
    parser.add_argument(
        "source", metavar="RUN", help="run directory, its export folder, or a folder written by `import`"
    )
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="new file, or new folder for hf (default: in the export folder)"
    )
    parser.add_argument("--backbone", help="module:function of a network of your own, which is imported")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write it, and print how the other program loads it."""
    path, usage = api.export(arguments.source, arguments.to, arguments.output, backbone=arguments.backbone)
    print(f"{path} is written. To load it:\n")
    print("\n".join(f"    {line}" for line in usage.splitlines()))
