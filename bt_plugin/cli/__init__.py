"""The command line: one subcommand a file, whose heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import os
import sys

from bt_plugin.cli import check, demo_data, pretrain, scan
from bt_plugin.errors import DivergenceError, RecipeError, UserError
from dali_pipelines.errors import BadImageError

_COMMANDS = (pretrain, check, demo_data, scan)


def main(arguments: list[str] | None = None) -> int:
    """Runs a subcommand; returns 0, 2 for what the user can correct, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="bt_plugin", description="Barlow Twins pretraining.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    except (UserError, BadImageError, ImportError) as error:
        # What every rank meets, one tells for all; a bad file is met by one alone.
        if not isinstance(error, (RecipeError, DivergenceError)) or os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
