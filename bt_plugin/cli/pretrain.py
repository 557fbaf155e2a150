"""`pretrain`: train, export and evaluate a backbone by a recipe."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

from bt_plugin import api

if TYPE_CHECKING:
    from bt_plugin.runs.summary import Summary

_LABELS = {
    "raw": "raw pixels",
    "untrained": "untrained network",
    "calibrated": "untrained, BatchNorm statistics estimated",
    "initialized": "network with the weights of model.init",
    "pretrained": "pretrained network",
}


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
    if summary.view_retrieval_top1 is not None:
        _print_shares(
            f"view retrieval top-1 of {summary.view_retrieval_images:,} images of data.train",
            summary.view_retrieval_top1,
        )
    if summary.knn_top1 is None:
        print("kNN evaluation is off: it needs eval.knn, and class folders in both data.train and data.val")
    else:
        _print_shares("kNN top-1 on data.val", summary.knn_top1)


def _print_shares(title: str, shares: dict[str, float]) -> None:
    print(title)
    for name, label in _LABELS.items():
        if name in shares:
            print(f"  {label:<41} {shares[name]:6.1%}")
