"""`doctor`: check this machine, its packages and a recipe before a run."""

from __future__ import annotations

import argparse
from typing import Any

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.runtime.terminal import printable


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("doctor", help="check packages, GPU, data, disk and ranks before a run")
    parser.add_argument("recipe", nargs="?", help="recipe to check; without it only the machine is checked")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys of the recipe to change")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each finding.

    Returns:
        0, or 1 if any of them is an error.
    """
    recipe = load_recipe(arguments.recipe, arguments.overrides) if arguments.recipe else None

    from bt_plugin.runtime import collectives
    from bt_plugin.tools.doctor import Finding, examine_machine, examine_recipe

    findings = examine_machine() + (examine_recipe(recipe) if recipe else [])
    everyone: list[list[Finding]] = collectives.all_gather_objects(findings)
    if collectives.is_main():
        for rank, of_rank in enumerate(everyone):
            for finding in of_rank:
                # Of the others only what is wrong there, and not with rank 0.
                if rank == 0 or (finding.level != "ok" and finding not in everyone[0]):
                    where = f"rank {rank}: " if rank else ""
                    remedy = f"; {finding.remedy}" if finding.remedy else ""
                    print(printable(f"{finding.level:<8} {where}{finding.what}{remedy}"))
    return int(any(finding.level == "error" for of_rank in everyone for finding in of_rank))
