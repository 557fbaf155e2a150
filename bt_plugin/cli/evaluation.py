"""`knn`, `linear` and `finetune`: measure how good the features are."""

from __future__ import annotations

import argparse
from typing import Any

from bt_plugin import api
from bt_plugin.cli.pretrain import log_on_main
from bt_plugin.errors import RecipeError

_HELP = {
    "knn": "measure the accuracy of a kNN classifier on frozen features",
    "linear": "train a linear classifier on frozen features and measure it",
    "finetune": "train the whole network on a part of the labels and measure it",
}


def add_parser(subparsers: Any) -> None:
    """Add the three subcommands."""
    for name, text in _HELP.items():
        parser = subparsers.add_parser(name, help=text)
        add_model_arguments(parser)
        parser.add_argument(
            "overrides",
            nargs="*",
            metavar="RECIPE.yaml section.key=value",
            help="recipe of the evaluation and keys to change; default data and views are those of the run",
        )
        parser.set_defaults(run=run)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the model to evaluate."""
    parser.add_argument(
        "subject",
        metavar="MODEL",
        help="run directory, checkpoint, file of weights, torchvision/NAME, timm/NAME, or pixels",
    )
    parser.add_argument(
        "--backbone",
        help="architecture of the weights, if the file does not tell it; module:function for a network of your own",
    )
    parser.add_argument("--prefix", help="first part of the network's keys, if a file has several networks")
    parser.add_argument(
        "--pretrained", action="store_true", help="use the library's pretrained weights instead of random ones"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random weights (default 0)")


def model_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of add_model_arguments as keyword arguments of api.evaluate and api.embed."""
    return {name: getattr(arguments, name) for name in ("backbone", "prefix", "pretrained", "seed")}


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, and print the accuracy."""
    recipes = [text for text in arguments.overrides if "=" not in text]
    if len(recipes) > 1:
        raise RecipeError(f"{' '.join(recipes)}: only one recipe is allowed. Write changes as section.key=value")
    is_main = log_on_main()
    result = api.evaluate(
        arguments.subject,
        arguments.command,
        recipes[0] if recipes else None,
        [text for text in arguments.overrides if "=" in text],
        **model_options(arguments),
    )
    if is_main:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    print(f"\n{result['method']} of {result['subject']}: {result['images']} images, seed {result['seed']}")
    for name in ("top1", "top5"):
        low, high = result[f"{name}_interval"]
        print(f"  {name[:-1]}-{name[-1]}  {result[name]:6.1%}   95 % interval {low:.1%} to {high:.1%}")
    print(f"  result  {result['file']}")
