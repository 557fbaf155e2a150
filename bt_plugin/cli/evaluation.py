"""`knn`, `linear` and `finetune`: measure how good the features are."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bt_plugin.errors import RecipeError
from bt_plugin.models.backbone_names import LIBRARIES, check_backbone_name

if TYPE_CHECKING:
    from bt_plugin.evaluation.evaluated_model import EvaluatedModel

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
    parser.add_argument("--backbone", help="architecture of the weights, if the file does not tell it")
    parser.add_argument("--prefix", help="first part of the network's keys, if a file has several networks")
    parser.add_argument(
        "--pretrained", action="store_true", help="use the library's pretrained weights instead of random ones"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random weights (default 0)")


def model_of(arguments: argparse.Namespace) -> EvaluatedModel:
    """Build the model to evaluate."""
    if not 0 <= arguments.seed < 2**32:
        raise RecipeError(f"--seed: {arguments.seed} is not allowed; it must be 0 to {2**32 - 1}")
    is_name = arguments.subject.split("/")[0] in LIBRARIES and not Path(arguments.subject).exists()
    for name, key in ((arguments.backbone, "--backbone"), (arguments.subject if is_name else None, "subject")):
        if name is not None:
            # A wrong name is reported before torch is imported, which takes seconds.
            check_backbone_name(name, key)

    from bt_plugin.evaluation.evaluated_model import open_model

    return open_model(
        arguments.subject,
        backbone=arguments.backbone,
        pretrained=arguments.pretrained,
        seed=arguments.seed,
        prefix=arguments.prefix,
    )


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, and print the accuracy."""
    recipes = [text for text in arguments.overrides if "=" not in text]
    if len(recipes) > 1:
        raise RecipeError(f"{' '.join(recipes)}: only one recipe is allowed. Write changes as section.key=value")

    from bt_plugin.config.evaluation_recipe import EvaluationRecipe
    from bt_plugin.config.recipe_file import load_as
    from bt_plugin.evaluation.run import evaluate
    from bt_plugin.runtime import collectives

    logging.getLogger("bt_plugin").setLevel(logging.INFO if collectives.is_main() else logging.WARNING)
    model = model_of(arguments)
    overrides = [text for text in arguments.overrides if "=" in text]
    recipe = load_as(
        EvaluationRecipe, Path(recipes[0]) if recipes else None, overrides=overrides, beneath=model.defaults
    )
    result = evaluate(arguments.command, model, recipe)
    if collectives.is_main():
        _print(result)


def _print(result: dict[str, Any]) -> None:
    print(f"\n{result['method']} of {result['subject']}: {result['images']} images, seed {result['seed']}")
    for name in ("top1", "top5"):
        low, high = result[f"{name}_interval"]
        print(f"  {name[:-1]}-{name[-1]}  {result[name]:6.1%}   95 % interval {low:.1%} to {high:.1%}")
    print(f"  result  {result['file']}")
