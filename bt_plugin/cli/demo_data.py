"""`demo-data`: a small real data set."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("demo-data", help="write a small data set of real photographs' crops")
    parser.add_argument("folder", help="where to; must not exist yet, or have this data")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the data and says so."""
    from bt_plugin.data.demo_data import write_demo_data

    written = write_demo_data(arguments.folder)
    print(f"{arguments.folder}: " + (f"{written} images written" if written else "the demo data is there already"))
