"""`preview`: draw the first images of a run and their views."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from bt_plugin.cli.pretrain import add_recipe_arguments
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.runs.atomic_file import check_output, write_atomically


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("preview", help="draw the first images of a run and their views")
    add_recipe_arguments(parser)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("views.png"), help="new .png file (default views.png)"
    )
    parser.add_argument("--images", type=int, default=8, help="approximate number of images (default 8)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Draw the picture, and print its path."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    output: Path = arguments.output
    if not 1 <= arguments.images <= 1000:
        raise RecipeError(f"--images: {arguments.images} is not allowed; it must be 1 to 1000")
    if output.suffix != ".png":
        raise RecipeError(f"--output: {output} is not allowed; its name must end in .png")
    if output.exists():
        raise RecipeError(f"--output: {output} already exists. Name another file")

    check_output(output, "--output")

    from bt_plugin.tools.preview import preview

    content = io.BytesIO()
    preview(recipe, arguments.images).save(content, "png")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, content.getvalue())
    print(output)
