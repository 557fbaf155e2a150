"""The command line: one subcommand a file, whose heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import os
import sys
from io import TextIOWrapper

from bt_plugin.cli import (
    bench,
    check,
    demo_data,
    doctor,
    embed,
    evaluation,
    export,
    import_weights,
    launch,
    pretrain,
    preview,
    recipes,
    report,
    scan,
)
from bt_plugin.errors import CheckpointError, DivergenceError, PreemptedError, RecipeError, UserError, file_error
from bt_plugin.runtime.launch_environment import check_launch_environment
from bt_plugin.runtime.stop_request import EXIT_PREEMPTED
from bt_plugin.runtime.terminal import log_to_stderr, print_error
from bt_plugin.version import __version__
from dali_pipelines.errors import BadImageError

_COMMANDS = (
    *(pretrain, launch, recipes, check, doctor, preview, bench, report, demo_data, scan),
    *(evaluation, embed, import_weights, export),
)
# What every rank meets, rank 0 tells for all.
_OF_ALL_RANKS = (RecipeError, DivergenceError, CheckpointError, PreemptedError)


def main(arguments: list[str] | None = None) -> int:
    """Runs a subcommand.

    Returns:
        0; 1 where `doctor` found an error; 2 for what the user can correct; 75 where the run was asked to stop and
        did, and goes on when it is started again; 130 after Ctrl-C; under `launch`, the ranks' code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Names of files need not be UTF-8.
            stream.reconfigure(errors="backslashreplace")
    log_to_stderr()
    parser = argparse.ArgumentParser(prog="bt-plugin", description="Barlow Twins pretraining.")
    parser.add_argument("--version", action="version", version=f"bt-plugin {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers)
    parsed, late = parser.parse_known_args(arguments)
    # argparse itself takes no changes to a recipe that follow an option.
    if late and (any(each.startswith("-") for each in late) or not hasattr(parsed, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(late)}")
    if late:
        parsed.overrides += late
    try:
        check_launch_environment()
        code: int | None = parsed.run(parsed)
    except (UserError, BadImageError, ImportError, PreemptedError) as error:
        if not isinstance(error, _OF_ALL_RANKS) or os.environ.get("RANK", "0") == "0":
            print_error(f"{'stopped' if isinstance(error, PreemptedError) else 'error'}: {error}")
        return EXIT_PREEMPTED if isinstance(error, PreemptedError) else 2
    except BrokenPipeError:
        # Whoever read the output has enough of it, as `head`. Python would fail once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print_error(f"error: {file_error(error)}")
        return 2
    except MemoryError:
        print_error("error: there is not enough memory; end other programs, or take smaller batches or images")
        return 2
    except KeyboardInterrupt:
        return 130
    return code or 0
