"""`check`: validate a recipe and print its resolved values, without training."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from bt_plugin import api
from bt_plugin.cli.pretrain import add_recipe_arguments
from bt_plugin.errors import UserError


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("check", help="validate a recipe and print its resolved values")
    add_recipe_arguments(parser)
    parser.add_argument("--world-size", type=int, default=1, help="number of ranks of the planned run (default 1)")
    parser.add_argument(
        "--num-images",
        type=int,
        help="number of images that an epoch sees, to check a recipe on a machine without the data",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Look for what would stop the run, then print the resolved recipe, the batch of a rank and the steps."""
    plan = api.check(
        arguments.recipe, arguments.overrides, world_size=arguments.world_size, num_images=arguments.num_images
    )
    print(plan.recipe.to_yaml())
    pieces, per_rank = plan.recipe.optim.accumulation_steps, plan.batch_size_per_rank
    in_pieces = f", in {pieces} micro-batches of {per_rank // pieces}" if pieces > 1 else ""
    print(f"# {per_rank} images a step on each of {arguments.world_size} rank(s){in_pieces}")
    if plan.pixels:
        print(f"# {plan.pixels}")
    an_epoch = " an epoch, by data.weights" if plan.recipe.data.weights else ""
    print(
        f"# {plan.num_images} images{an_epoch}: {plan.steps_per_epoch} steps an epoch, {plan.total_steps} steps in all"
    )
    print(f"# {_memory(arguments, plan.num_images)}")


def _memory(arguments: argparse.Namespace, num_images: int) -> str:
    """Return a line about the GPU memory of a rank, with the command that computes it."""
    options = [f"--world-size={arguments.world_size}"] if arguments.world_size > 1 else []
    if arguments.num_images is not None:
        options.append(f"--num-images={arguments.num_images}")
    command = f"bt-plugin plan {shlex.join([arguments.recipe, *arguments.overrides, *options])}"
    try:
        planned = api.plan(
            arguments.recipe, arguments.overrides, world_size=arguments.world_size, num_images=num_images
        )
    except UserError:  # a network of the user's may read values, which plan does not have
        return f"{command} says why the GPU memory of this run is not computed"
    (total,) = (part.low for part in planned.memory if part.name == "total")
    precision = planned.setup["mixed_precision"]
    return f"{total:.1f} GiB of GPU memory on each rank with run.mixed_precision={precision}, by {command}"
