"""`plan`: say what a run needs before a GPU is rented: memory, time, and what loader and storage must deliver."""

from __future__ import annotations

import argparse
import json
from typing import Any

from bt_plugin import api
from bt_plugin.cli.pretrain import add_recipe_arguments


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("plan", help="compute the memory and the time of a run, without a GPU")
    add_recipe_arguments(parser)
    parser.add_argument(
        "--gpu",
        default="h100",
        help="GPU of each rank: a name such as h100, a100, l40s or 4090, or GiB,TFLOPS,GBPS (default h100)",
    )
    parser.add_argument("--world-size", type=int, default=1, help="number of ranks, one on each GPU (default 1)")
    parser.add_argument("--nodes", type=int, help="number of hosts (default: as few as hold eight GPUs each)")
    parser.add_argument("--fsdp", action="store_true", help="shard the weights, as recipes/accelerate/fsdp.yaml does")
    parser.add_argument("--num-images", type=int, help="number of images that an epoch sees, if the data is not here")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the plan."""
    plan = api.plan(
        arguments.recipe,
        arguments.overrides,
        gpu=arguments.gpu,
        world_size=arguments.world_size,
        nodes=arguments.nodes,
        fsdp=arguments.fsdp,
        num_images=arguments.num_images,
    )

    from bt_plugin.planning.text import plan_text

    print(json.dumps(plan.to_dict(), indent=1) if arguments.json else plan_text(plan))
