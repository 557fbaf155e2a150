"""Names that others chose are printed as text."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from bt_plugin.runtime.terminal import printable


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[31mred\x07\x00\r\x9b2J") == r"a\x1b[31mred\x07\x00\r\x9b2J"
    assert printable("two\nlines\tand é, 图") == "two\nlines\tand é, 图"
    assert printable("\udcff\u202egnp.exe") == r"\udcff\u202egnp.exe"


def test_long_lines_are_shortened() -> None:
    text = printable("begin" + "x" * 100_000 + "end\nnext")
    assert len(text) < 1100
    assert text.startswith("begin")
    assert text.endswith("end\nnext")


def test_errors_and_warnings_are_printable(tmp_path: Path) -> None:
    program = f"""
import logging
from bt_plugin.cli import main
code = main(["scan", {str(tmp_path)!r} + "/\\x1b[2J\\udcff", "-o", {str(tmp_path)!r} + "/out"])
logging.getLogger("dali_pipelines").warning("%s", "\\x1b]0;title\\x07")
raise SystemExit(code)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert result.returncode == 2
    assert b"\x1b" not in result.stderr
    assert rb"\x1b[2J" in result.stderr
    assert rb"\x1b]0;title" in result.stderr


def test_reading_what_head_has_closed_is_no_traceback() -> None:
    command = f"{sys.executable} -m bt_plugin recipes | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in result.stderr
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "printed"), [("", "c++\npython\n"), ("UserError('told')", ""), ("KeyError()", "c++\npython\n")]
)
def test_what_a_told_error_says_is_not_printed_before(error: str, printed: str) -> None:
    program = f"""
import os, sys
from bt_plugin.errors import UserError
from bt_plugin.runtime.terminal import stderr_unless_told
try:
    with stderr_unless_told():
        os.write(2, b"c++\\n")
        print("python", file=sys.stderr)
        {f"raise {error}" if error else ""}
except (UserError, KeyError):
    pass
os.write(2, b"after\\n")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == printed + "after\n"


def test_a_librarys_thread_that_cannot_write_is_told_in_a_line() -> None:
    program = """
import threading
from bt_plugin.runtime.terminal import log_to_stderr
log_to_stderr()
thread = threading.Thread(target=lambda: open("/nowhere/events"))
thread.start()
thread.join()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stderr.startswith("warning: a background thread ended: /nowhere/events: No such file")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
def test_other_packages_warnings_are_printed(level: int) -> None:
    program = "import logging; from bt_plugin.runtime.terminal import log_to_stderr; log_to_stderr();"
    program += f"logging.getLogger('x').log({level}, 'seen')"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr == "seen\n"
