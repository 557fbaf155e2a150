"""The command line. Each file is one subcommand, and imports what is slow only when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from io import TextIOWrapper
from itertools import pairwise

from bt_plugin.cli import (
    bench,
    check,
    demo_data,
    doctor,
    embed,
    evaluation,
    export,
    get,
    import_weights,
    launch,
    pack,
    plan,
    pretrain,
    preview,
    recipes,
    replay,
    report,
    scan,
)
from bt_plugin.errors import (
    BackboneError,
    CheckpointError,
    DivergenceError,
    PreemptedError,
    RecipeError,
    UserError,
    file_error,
)
from bt_plugin.runtime.launch_environment import check_launch_environment
from bt_plugin.runtime.stop_request import EXIT_PREEMPTED
from bt_plugin.runtime.terminal import log_to_stderr, print_error
from bt_plugin.version import __version__
from dali_pipelines.errors import BadImageError, StorageError

_COMMANDS = (
    *(pretrain, launch, recipes, check, plan, doctor, preview, bench, report, replay, demo_data, get, scan, pack),
    *(evaluation, embed, import_weights, export),
)
# Errors that every rank meets. Rank 0 alone prints them.
_OF_ALL_RANKS = (RecipeError, BackboneError, DivergenceError, CheckpointError, PreemptedError)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all subcommands."""
    parser = argparse.ArgumentParser(prog="bt-plugin", description="Pretrain vision backbones with Barlow Twins.")
    parser.add_argument("--version", action="version", version=f"bt-plugin {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: Words of the command line; default: those of this process.

    Returns:
        The exit code. 0: all is done. 1: `doctor` found an error, `replay` found a finite step, or `pack` left out
        images. 2: the user can correct the error. 75: the run was asked to stop, and the same command resumes it. 130:
        Ctrl-C. `launch` returns the code of the rank that failed first.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # File names need not be UTF-8.
            stream.reconfigure(errors="backslashreplace")
    log_to_stderr()
    parser = build_parser()
    words = sys.argv[1:] if arguments is None else arguments
    for before, word in pairwise(["bt-plugin", *words]):
        # The prefix of keys can be empty. An empty path would mean the working directory.
        if not word and before != "--prefix":
            parser.error(f"the argument after {before} is empty; check that its shell variable is set")
    parsed, late = parser.parse_known_args(words)
    # argparse itself accepts no overrides after an option.
    if late and (any(each.startswith("-") for each in late) or not hasattr(parsed, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(late)}")
    if late:
        parsed.overrides += late
    try:
        check_launch_environment()
        code: int | None = parsed.run(parsed)
    except (UserError, BadImageError, StorageError, ImportError, PreemptedError) as error:
        is_resumable = isinstance(error, (StorageError, PreemptedError))
        if not isinstance(error, _OF_ALL_RANKS) or os.environ.get("RANK", "0") == "0":
            print_error(f"{'stopped' if is_resumable else 'error'}: {error}")
        return EXIT_PREEMPTED if is_resumable else 2
    except BrokenPipeError:
        # The reader of the output has closed it, as `head` does. Python would fail once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print_error(f"error: {file_error(error)}")
        return 2
    except MemoryError:
        print_error("error: there is not enough memory. End other programs, or use smaller batches or images")
        return 2
    except KeyboardInterrupt:
        return 130
    return code or 0
