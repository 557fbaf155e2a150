"""`pretrain`: train, export and evaluate a backbone by a recipe."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from bt_plugin import api
from bt_plugin.runs.accuracies import accuracy_table

if TYPE_CHECKING:
    from bt_plugin.runs.summary import Summary


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("pretrain", help="pretrain a backbone by a recipe")
    add_recipe_arguments(parser)
    parser.set_defaults(run=run)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a recipe and the keys to change."""
    parser.add_argument("recipe", help="YAML file, or the name of a bundled recipe, such as quickstart")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys of the recipe to change")


def run(arguments: argparse.Namespace) -> None:
    """Train, and print where the results are stored."""
    is_main = log_on_main()
    try:
        summary = api.pretrain(arguments.recipe, arguments.overrides)
    except KeyboardInterrupt:
        if is_main:
            print("\ninterrupted. Run the same command again to resume from the last checkpoint", file=sys.stderr)
        raise
    if is_main:
        print_summary(summary)


def log_on_main() -> bool:
    """Let rank 0 alone log what is no warning. Return whether this is rank 0."""
    is_main = os.environ.get("RANK", "0") == "0"
    logging.getLogger("bt_plugin").setLevel(logging.INFO if is_main else logging.WARNING)
    return is_main


def print_summary(summary: Summary) -> None:
    """Print where the results of a run are, and the shares of each network."""
    run_dir = summary.run
    print(f"\n{summary.step} steps done; results in {run_dir}")
    print(f"  backbone   {run_dir}/export/backbone.safetensors")
    print(f"  metrics    {run_dir}/metrics.jsonl, {run_dir}/tensorboard")
    print(f"  summary    {run_dir}/summary.json")
    print(f"  report     bt-plugin report {shlex.quote(run_dir)}")
    _print_accuracies(summary)
    if summary.knn_top1 is None:
        print("kNN evaluation is off: it needs eval.knn, and labels of the same classes in data.train and data.val")


def _print_accuracies(summary: Summary) -> None:
    """Print a table of the accuracies by network. View retrieval is that of training images."""
    columns, rows = accuracy_table(summary.to_dict())
    if not columns:
        return
    print("\naccuracy, with 95 % intervals over the choice of the images")
    lines = [("", [name for name, _ in columns]), ("", [images for _, images in columns]), *rows]
    first = max(len(label) for label, _ in lines)
    widths = [max(len(cells[at]) for _, cells in lines) for at in range(len(columns))]
    for label, cells in lines:
        print(f"  {label:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths)), sep="  ")
    print("calibrated: the untrained network with re-estimated BatchNorm statistics. It is the baseline to beat.")
