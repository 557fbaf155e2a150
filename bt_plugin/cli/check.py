"""`check`: validate a recipe and print its resolved values, without training."""

from __future__ import annotations

import argparse
from typing import Any

from bt_plugin.cli.pretrain import add_recipe_arguments
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.models.backbone_names import check_backbone_name

MOST_RANKS = 2**20


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("check", help="validate a recipe and print its resolved values")
    add_recipe_arguments(parser)
    parser.add_argument("--world-size", type=int, default=1, help="number of ranks of the planned run (default 1)")
    parser.add_argument(
        "--num-images", type=int, help="number of training images, to check a recipe on a machine without the data"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Look for what would stop the run, then print the resolved recipe, the batch of a rank and the steps."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if not 1 <= arguments.world_size <= MOST_RANKS:
        raise RecipeError(f"--world-size: {arguments.world_size} is not allowed; it must be 1 to {MOST_RANKS}")
    if arguments.num_images is not None and arguments.num_images < 1:
        raise RecipeError(f"--num-images: {arguments.num_images} is not allowed; it must be at least 1")
    per_rank = recipe.batch_size_per_rank(arguments.world_size)
    check_backbone_name(recipe.model.backbone)
    n_images = arguments.num_images if arguments.num_images is not None else _count(recipe)
    steps = recipe.steps_per_epoch(n_images)

    from bt_plugin.models.trial_forward import check_model
    from bt_plugin.monitoring.trackers import tracker_options

    check_model(recipe)
    tracker_options(recipe)
    print(recipe.to_yaml())
    pieces = recipe.optim.accumulation_steps
    in_pieces = f", in {pieces} micro-batches of {per_rank // pieces}" if pieces > 1 else ""
    print(f"# {per_rank} images a step on each of {arguments.world_size} rank(s){in_pieces}")
    print(f"# {n_images} images: {steps} steps an epoch, {steps * recipe.optim.epochs} steps in all")


def _count(recipe: Recipe) -> int:
    from bt_plugin.data.from_recipe import open_sources

    try:
        train, _ = open_sources(recipe)
    except RecipeError as error:
        raise RecipeError(f"{error}, or give --num-images if the data is on another machine") from error
    return len(train)
