"""`get`: download a public data set, and write the files that a recipe reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bt_plugin.data.public_data import PUBLIC_DATA


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("get", help="download a public data set, and write the files that a recipe reads")
    parser.add_argument("name", metavar="NAME", choices=PUBLIC_DATA, help=f"data set: {', '.join(PUBLIC_DATA)}")
    parser.add_argument("folder", metavar="DIR", help="new folder, or a folder that already has this data set")
    parser.add_argument(
        "--archive", metavar="FILE", help="the data set's file, if you have downloaded it before (default: download it)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the data, and print its terms and how to train on it."""
    from bt_plugin.data.get_data import about, get_data

    data, folder = PUBLIC_DATA[arguments.name], Path(arguments.folder)
    print(about(data), flush=True)
    written = get_data(arguments.name, folder, archive=arguments.archive)
    print(f"{folder}: {data.title} is {'written' if written else 'already there'}. To train on it:\n")
    print(f"    bt-plugin pretrain {data.recipe} {data.keys(folder)}")
