"""`bench`: measure how fast a recipe trains on this machine, and name the bottleneck."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bt_plugin.cli.pretrain import add_recipe_arguments
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.runs.atomic_file import check_output, write_atomically

_ROWS = {
    "loader": "the loader alone",
    "step": "the step alone, on views that are already on the device",
    "both": "training",
    "decode": "reading and decoding alone",
}


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("bench", help="measure how fast a recipe trains here, and name the bottleneck")
    add_recipe_arguments(parser)
    parser.add_argument(
        "--seconds", type=float, default=150.0, help="approximate duration of the measurement in seconds (default 150)"
    )
    parser.add_argument("-o", "--output", type=Path, help="new .json file for all measurements")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and print a table with advice."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if not 0 < arguments.seconds <= 86_400:
        raise RecipeError(f"--seconds: {arguments.seconds} is not allowed; it must be above 0, at most 86400")
    if arguments.output and arguments.output.exists():
        raise RecipeError(f"--output: {arguments.output} already exists. Name another file")

    if arguments.output:
        check_output(arguments.output, "--output")

    from bt_plugin.runtime import collectives
    from bt_plugin.tools.bench import bench

    found = bench(recipe, arguments.seconds)
    if not collectives.is_main():
        return
    print(f"images/s of {found['world_size']} rank(s) on {found['device']}, mixed precision {found['mixed_precision']}")
    for name, label in _ROWS.items():
        rounds = found["raw"].get(name, [])
        spread = f"   ({min(rounds):.0f} to {max(rounds):.0f})" if rounds else ""
        print(f"  {label:<50} {found[name]:8.0f}{spread}")
    for line in found["advice"]:
        print(f"- {line}")
    if arguments.output:
        write_atomically(arguments.output, json.dumps(found, indent=1) + "\n")
        print(arguments.output)
