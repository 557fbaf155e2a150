"""`recipes`: list the bundled recipes, or print the path of one."""

from __future__ import annotations

import argparse
from typing import Any

from bt_plugin import api
from bt_plugin.config.bundled_recipes import find_recipe


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("recipes", help="list the bundled recipes, or print the path of one")
    parser.add_argument(
        "name",
        nargs="?",
        help="recipe whose path to print, such as accelerate/1gpu for `accelerate launch --config_file`",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print all names, each with the first line of its file, or the path of one recipe."""
    if arguments.name:
        print(find_recipe(arguments.name))
        return
    for name, file in api.list_recipes().items():
        comments = (line.lstrip("#! ") for line in file.read_text(encoding="utf-8").splitlines() if line[:2] == "# ")
        print(f"{name:<35} {next(comments)}")
