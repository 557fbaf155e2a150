"""`check`: what a recipe means, without training."""

from __future__ import annotations

import argparse
from typing import Any

from bt_plugin.cli.pretrain import add_recipe_arguments
from bt_plugin.errors import RecipeError
from bt_plugin.recipe_file import load_recipe


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("check", help="validate a recipe and print what it resolves to")
    add_recipe_arguments(parser)
    parser.add_argument("--world-size", type=int, default=1, help="number of ranks it will run on (default 1)")
    parser.add_argument("--num-images", type=int, help="of data.train, to check a recipe where the data is not")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints the resolved recipe, the batch of a rank and the steps."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.world_size < 1:
        raise RecipeError(f"--world-size: {arguments.world_size} is not allowed; it must be at least 1")
    per_rank = recipe.batch_size_per_rank(arguments.world_size)
    print(recipe.to_yaml())
    pieces = recipe.optim.accumulation_steps
    in_pieces = f", in {pieces} micro-batches of {per_rank // pieces}" if pieces > 1 else ""
    print(f"# {per_rank} images a step on each of {arguments.world_size} rank(s){in_pieces}")
    n_images = arguments.num_images if arguments.num_images is not None else _count(recipe.data.train)
    steps = recipe.steps_per_epoch(n_images)
    print(f"# {n_images} images: {steps} steps an epoch, {steps * recipe.optim.epochs} steps in all")


def _count(folder: str) -> int:
    from dali_pipelines.sources import open_source

    try:
        return len(open_source(folder))
    except ValueError as error:
        raise RecipeError(f"data.train: {error}, or give --num-images") from error
