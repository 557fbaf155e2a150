"""Print messages safely: control characters in names are escaped, and long lines are shortened."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bt_plugin.errors import UserError, file_error

# Control characters except line feed and tab, marks that change the direction of text, and bytes that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MOST_CHARACTERS = 1000
_STDERR = 2


def printable(text: str) -> str:
    """Return a text with escaped control characters. Long lines are shortened in the middle."""
    return "\n".join(_shortened(line) for line in _UNPRINTABLE.sub(_escaped, text).split("\n"))


def print_error(message: str) -> None:
    """Print a message to stderr."""
    print(printable(message), file=sys.stderr)  # noqa: T201 - this is where messages are printed


def log_to_stderr() -> None:
    """Log to stderr: warnings, and the levels that commands set for bt_plugin."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(handlers=[handler])
    threading.excepthook = _tell_of_thread


@contextmanager
def stderr_unless_told() -> Iterator[None]:
    """Hold back what libraries, including C++ ones, print to stderr in the block. Print it after the block.

    The text is dropped if the block ends with a UserError, which says the same in one line.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept, ExitStack() as after:
        shown = os.dup(_STDERR)
        after.callback(os.close, shown)
        os.dup2(kept.fileno(), _STDERR)
        is_told = False
        try:
            yield
        except UserError:
            is_told = True
            raise
        finally:
            sys.stderr.flush()
            os.dup2(shown, _STDERR)
            if not is_told:
                kept.seek(0)
                os.write(_STDERR, kept.read())


def _tell_of_thread(failure: threading.ExceptHookArgs) -> None:
    """Print one line if a library's thread cannot write, such as TensorBoard's after its folder was removed."""
    if isinstance(failure.exc_value, OSError):
        print_error(f"warning: a background thread ended: {file_error(failure.exc_value)}")
    else:
        threading.__excepthook__(failure)


class _Printable(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _shortened(line: str) -> str:
    half = _MOST_CHARACTERS // 2
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:half]} ... {line[-half:]}"
