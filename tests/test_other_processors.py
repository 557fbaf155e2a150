"""What tests.other_processors says of tests that failed, or did not run; the settings themselves run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import other_processors
from tests.conftest import REPOSITORY
from tests.other_processors import (
    NUMERIC_FILES,
    OLDEST,
    PROCESSORS,
    SETTINGS,
    Outcome,
    environment_of,
    outcome_of,
    run,
)

PASSED = '<testcase classname="a" name="passes"/>'
FAILED = '<testcase classname="a" name="fails"><failure/></testcase>'
SKIPPED = '<testcase classname="a" name="skips"><skipped/></testcase>'


@pytest.mark.parametrize(
    ("cases", "exit_code", "is_success", "said"),
    [
        (PASSED, 0, True, "ok      1 passed, 0 failed, 0 skipped"),
        (PASSED + SKIPPED, 0, True, "ok      1 passed, 0 failed, 1 skipped"),
        (PASSED + FAILED, 1, False, "FAILED  1 passed, 1 failed, 0 skipped"),
        # Interrupted, or out of memory, after a test that passed.
        (PASSED, 2, False, "FAILED  1 passed, 0 failed, 0 skipped; pytest ended with exit code 2"),
        (PASSED, -9, False, "FAILED  1 passed, 0 failed, 0 skipped; pytest ended with exit code -9"),
        (SKIPPED, 0, False, "FAILED  0 passed, 0 failed, 1 skipped"),
        ("", 5, False, "FAILED  0 passed, 0 failed, 0 skipped; pytest ended with exit code 5"),
        ("<broken", 0, False, "FAILED  0 passed, 0 failed, 0 skipped; pytest ended with exit code 0 before it wrote"),
    ],
)
def test_only_tests_that_ran_pass(tmp_path: Path, cases: str, exit_code: int, is_success: bool, said: str) -> None:
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    outcome = outcome_of(report, exit_code)
    assert outcome.is_success == is_success
    assert str(outcome).startswith(said)


def test_without_a_report_nothing_passed(tmp_path: Path) -> None:
    assert not outcome_of(tmp_path / "report.xml", 0).is_success


def test_a_setting_is_in_force_in_the_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the caller's own variables say."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert "ATEN_CPU_CAPABILITY" not in environment_of("native-1", tmp_path)
    seen = tmp_path / "test_seen.py"
    seen.write_text(
        "import os, torch\n"
        "def test_seen():\n"
        "    assert torch.backends.cpu.get_cpu_capability() == 'DEFAULT'\n"
        "    assert os.environ['OMP_NUM_THREADS'] == '2' and 'PYTEST_XDIST_WORKER' not in os.environ\n"
        "def test_wrong():\n"
        "    assert False\n"
    )
    outcome = run("oldest-2", (str(seen),))
    assert (outcome.passed, len(outcome.failed), outcome.error) == (1, 1, "")


def test_a_setting_that_cannot_be_is_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROCESSORS, "native", {"ATEN_CPU_CAPABILITY": "avx1024"})
    assert run("native-1") == Outcome(0, 0, [], "not run: torch does not take this setting on this processor")


@pytest.mark.parametrize(("failing", "exit_code"), [("", 0), ("native-2", 1)])
def test_one_failed_setting_is_a_failure(
    failing: str, exit_code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = {setting: Outcome(3, 0, ["a::b"] if setting == failing else [], "") for setting in SETTINGS}
    monkeypatch.setattr(other_processors, "run", lambda setting: outcomes[setting])
    monkeypatch.setattr("sys.argv", ["other_processors"])
    assert other_processors.main() == exit_code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(SETTINGS)
    assert ("    a::b" in lines) == bool(failing)


def test_files_and_variables_are_real() -> None:
    assert [name for name in NUMERIC_FILES if not (REPOSITORY / name).is_file()] == []
    assert all(set(variables) <= set(OLDEST) for variables in PROCESSORS.values()), "or a caller's own would stay"
