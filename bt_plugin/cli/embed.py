"""`embed`: write the features of images into a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bt_plugin.cli.evaluation import add_model_arguments, model_of


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("embed", help="write the features of images, with their names, into a file")
    add_model_arguments(parser)
    parser.add_argument("data", help="images: a folder, a file list, tar shards or an array file, as for data.train")
    parser.add_argument("-o", "--output", required=True, help="new file that ends with .npz or .parquet")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="keys of the sections view, run and data to change"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Embed the images, and print where the features are stored."""
    from bt_plugin.config.evaluation_recipe import EvaluationRecipe
    from bt_plugin.config.recipe_file import load_as
    from bt_plugin.data.from_recipe import open_named
    from bt_plugin.evaluation.embed import check_embeddings_output, write_embeddings
    from bt_plugin.evaluation.features import extract_features
    from bt_plugin.evaluation.run import Evaluation
    from bt_plugin.runtime import collectives
    from bt_plugin.runtime.accelerator import build_accelerator

    output = Path(arguments.output)
    check_embeddings_output(output)
    model = model_of(arguments)
    beneath = {**model.defaults, "data": {**model.defaults.get("data", {}), "train": arguments.data}}
    beneath["data"].setdefault("val", arguments.data)
    recipe = load_as(EvaluationRecipe, None, overrides=arguments.overrides, beneath=beneath)
    source = open_named("data", recipe.data.train)
    accelerator = build_accelerator(recipe.run)
    evaluation = Evaluation(model, recipe, accelerator, source, source)
    features = extract_features(evaluation.embedder(), evaluation.shown(source), accelerator.device)
    collectives.from_main(
        lambda: write_embeddings(output, features=features, names=list(source.names), classes=source.classes)
    )
    if collectives.is_main():
        rows, columns = features.values.shape
        print(f"{rows} images, {columns} features each: {output}")
    accelerator.end_training()
