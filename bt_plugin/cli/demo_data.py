"""`demo-data`: write a small data set of real photographs."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("demo-data", help="write a small data set, crops of real photographs")
    parser.add_argument("folder", help="new folder, or a folder that already has this data")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the data, and print how many images were written."""
    from bt_plugin.data.demo_data import write_demo_data

    written = write_demo_data(arguments.folder)
    print(f"{arguments.folder}: " + (f"{written} images written" if written else "the demo data is already there"))
