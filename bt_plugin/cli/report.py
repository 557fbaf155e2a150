"""`report`: a run, or several, on one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bt_plugin.errors import RecipeError
from bt_plugin.runs.atomic_file import check_output

_NAME = "report.html"


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("report", help="write an HTML page about a run, or about several side by side")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument(
        "-o", "--output", type=Path, help=f"a file that is not there yet (default RUN/{_NAME}, made anew each time)"
    )
    parser.add_argument("--map-images", type=int, default=1000, help="on the map of features (default 1000; 0: no map)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the page, and prints where it is."""
    output: Path | None = arguments.output
    if arguments.map_images < 0:
        raise RecipeError(f"--map-images: {arguments.map_images} is not allowed; it must be at least 0")
    if output is None and len(arguments.runs) > 1:
        raise RecipeError("--output: a page about several runs needs a name, such as -o comparison.html")
    if output is not None and output.suffix != ".html":
        raise RecipeError(f"--output: {output} is not allowed; its name must end in .html")
    if output is not None and output.exists():
        raise RecipeError(f"--output: {output} is there already; name another file")

    output = output or arguments.runs[0] / _NAME
    check_output(output, "--output")

    from bt_plugin.report.write import write_report

    write_report(arguments.runs, output, arguments.map_images)
    print(output)
