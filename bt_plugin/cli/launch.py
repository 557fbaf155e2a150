"""`launch`: run `accelerate launch`, pass signals on to the ranks, and return their exit code."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import threading
from typing import Any

from bt_plugin.config.bundled_recipes import find_recipe
from bt_plugin.runtime.stop_request import SIGNALS


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "launch",
        help="run `accelerate launch`, and pass on signals and exit codes",
        description="Run `accelerate launch` with the same arguments. SIGTERM and SIGUSR1 reach the ranks, which finish"
        " their step, write a checkpoint and exit with 75. This command exits with the code of the ranks. --config_file"
        " also takes the name of a bundled file, such as accelerate/8gpu.",
        add_help=False,
        # All arguments that follow are accelerate's, so no character begins an option here.
        prefix_chars="\0",
    )
    parser.add_argument("arguments", nargs="*", help="arguments of `accelerate launch`")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Launch the ranks. Return the exit code of the rank that failed first.

    Raises:
        RecipeError: If --config_file names neither a file nor a bundled recipe.
    """
    # Blocked and waited for in a thread: torch's launcher, which sets handlers of its own, would kill the
    # ranks 30 s after it was asked to stop. Ranks inherit the mask, and lift it when they can stop.
    # Before the imports, because NumPy starts threads, which inherit it too and would take the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_pass_on, args=(SIGNALS,), daemon=True).start()

    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parsed = launch_command_parser().parse_args(arguments.arguments)
    if parsed.config_file is not None:
        parsed.config_file = str(find_recipe(parsed.config_file))
    try:
        launch_command(parsed)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return _code_of(failure.exitcode)
    except subprocess.CalledProcessError as error:
        return _code_of(error.returncode)
    return 0


def _pass_on(signals: tuple[signal.Signals, ...]) -> None:
    import psutil

    while True:
        number = signal.sigwait(signals)
        for rank in psutil.Process().children():
            try:
                os.kill(rank.pid, number)
            except ProcessLookupError:
                continue


def _code_of(returncode: int) -> int:
    """Return the code that a shell gives a process that a signal ended."""
    return 128 - returncode if returncode < 0 else returncode
