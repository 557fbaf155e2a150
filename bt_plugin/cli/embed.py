"""`embed`: write the features of images into a file."""

from __future__ import annotations

import argparse
from typing import Any

from bt_plugin import api
from bt_plugin.cli.evaluation import add_model_arguments, model_options
from bt_plugin.cli.pretrain import log_on_main
from bt_plugin.config.recipe_file import paths_in


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("embed", help="write the features of images, with their names, into a file")
    add_model_arguments(parser)
    parser.add_argument("data", help="images: a path or a list of paths, such as [A, B], as for data.train")
    parser.add_argument("-o", "--output", required=True, help="new file that ends with .npz or .parquet")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="keys of the sections view, run and data to change"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Embed the images, and print where the features are stored."""
    is_main = log_on_main()
    embeddings = api.embed(
        arguments.subject, paths_in(arguments.data), arguments.output, arguments.overrides, **model_options(arguments)
    )
    if is_main:
        rows, columns = embeddings.features.shape
        print(f"{rows} images, {columns} features each: {arguments.output}")
