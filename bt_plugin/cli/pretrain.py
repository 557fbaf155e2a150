"""`pretrain`: from a recipe to an exported, evaluated backbone."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from typing import Any

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.models.backbone_names import check_backbone_name

_KNN_LABELS = {
    "raw": "raw pixels",
    "untrained": "untrained network",
    "calibrated": "untrained, BatchNorm statistics estimated",
    "pretrained": "pretrained network",
}


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("pretrain", help="pretrain a backbone; alone or under `accelerate launch`")
    add_recipe_arguments(parser)
    parser.set_defaults(run=run)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe, and changes to it."""
    parser.add_argument("recipe", help="a YAML file, or the name of one that comes with it, such as quickstart")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")


def run(arguments: argparse.Namespace) -> None:
    """Trains, and prints where the results lie."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    # Before torch is imported, which takes seconds.
    check_backbone_name(recipe.model.backbone)

    from bt_plugin.runtime import collectives
    from bt_plugin.training.pretrain import pretrain

    logging.getLogger("bt_plugin").setLevel(logging.INFO if collectives.is_main() else logging.WARNING)
    try:
        summary = pretrain(recipe)
    except KeyboardInterrupt:
        if collectives.is_main():
            print("\ninterrupted; the same command continues from the last checkpoint", file=sys.stderr)
        raise
    if collectives.is_main():
        _print_summary(summary)


def _print_summary(summary: dict[str, Any]) -> None:
    run_dir = summary["run"]
    print(f"\n{summary['step']} steps done; results in {run_dir}")
    print(f"  backbone   {run_dir}/export/backbone.safetensors")
    print(f"  metrics    {run_dir}/metrics.jsonl, {run_dir}/tensorboard")
    print(f"  summary    {run_dir}/summary.json")
    print(f"  all of it  bt-plugin report {shlex.quote(run_dir)}")
    knn = summary["knn_top1"]
    if knn is None:
        print("kNN evaluation is off: it needs eval.knn, and class folders in both data.train and data.val")
        return
    print("kNN top-1 on data.val")
    for name, label in _KNN_LABELS.items():
        print(f"  {label:<41} {knn[name]:6.1%}")
