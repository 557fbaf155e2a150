"""`report`: write an HTML page about one or several runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bt_plugin.errors import RecipeError
from bt_plugin.models.backbone_names import check_backbone_name
from bt_plugin.runs.atomic_file import check_output

_NAME = "report.html"


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("report", help="write an HTML page about one run, or compare several")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory")
    parser.add_argument(
        "-o", "--output", type=Path, help=f"new file (default RUN/{_NAME}, which is replaced each time)"
    )
    parser.add_argument(
        "--map-images",
        type=int,
        default=1000,
        help="number of images on the map of features; 0 draws no map (default 1000)",
    )
    parser.add_argument("--backbone", help="module:function of a network of your own, which is imported for the map")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the page, and print its path."""
    output: Path | None = arguments.output
    if arguments.map_images < 0:
        raise RecipeError(f"--map-images: {arguments.map_images} is not allowed; it must be at least 0")
    if output is None and len(arguments.runs) > 1:
        raise RecipeError("--output: a page about several runs needs a name, such as -o comparison.html")
    if output is not None and output.suffix != ".html":
        raise RecipeError(f"--output: {output} is not allowed; its name must end in .html")
    if output is not None and output.exists():
        raise RecipeError(f"--output: {output} already exists. Name another file")

    if arguments.backbone is not None:
        check_backbone_name(arguments.backbone, "--backbone")

    output = output or arguments.runs[0] / _NAME
    check_output(output, "--output")

    from bt_plugin.report.write import write_report

    write_report(arguments.runs, output, arguments.map_images, backbone=arguments.backbone)
    print(output)
