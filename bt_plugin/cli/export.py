"""`export`: a run's backbone in the format of another program."""

from __future__ import annotations

import argparse
from typing import Any

from bt_plugin.formats import FORMATS


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("export", help="write a run's backbone for another program")
    parser.add_argument("source", metavar="RUN", help="a run's directory, its export, or a folder made by `import`")
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument("-o", "--output", metavar="OUT", help="a new file, or folder for hf (default: in the export)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write it, and print how the other program loads it."""
    from bt_plugin.formats import convert

    path, usage = convert(arguments.source, arguments.to, arguments.output)
    print(f"{path} written; to load it:\n")
    print("\n".join(f"    {line}" for line in usage.splitlines()))
