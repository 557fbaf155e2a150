"""`recipes`: what comes with the package, and where it lies."""

from __future__ import annotations

import argparse
from typing import Any

from bt_plugin.config.bundled_recipes import bundled_recipes, find_recipe


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("recipes", help="list the recipes of this package, or say where one lies")
    parser.add_argument("name", nargs="?", help="such as accelerate/1gpu, for `accelerate launch --config_file`")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints all names, each with what its file says first, or the path of one."""
    if arguments.name:
        print(find_recipe(arguments.name))
        return
    for name, file in bundled_recipes().items():
        comments = (line.lstrip("#! ") for line in file.read_text(encoding="utf-8").splitlines() if line[:2] == "# ")
        print(f"{name:<35} {next(comments)}")
