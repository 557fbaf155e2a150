"""Without a terminal: whole lines, now and then, with the time that is left."""

from __future__ import annotations

import logging
import re

import pytest

from bt_plugin.monitoring import progress_bar
from bt_plugin.monitoring.progress_bar import ProgressBar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    return now


def test_lines_now_and_then(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = ProgressBar(total=100, done=40, shown=True)
    for step in range(41, 101):
        clock[0] += 2
        run.step_done()
        run.tell(f"loss of {step}")
    run.close()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "step 41 of 100, 00:02 gone, 01:58 left: loss of 41", "as fast as since it goes on"
    assert lines[1] == "step 56 of 100, 00:32 gone, 01:28 left: loss of 56", "half a minute later"
    assert lines[-1] == "step 100 of 100, 02:00 gone, 00:00 left: loss of 100"
    assert len(lines) == 5


def test_other_ranks_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = ProgressBar(total=1, done=0, shown=False)
    run.step_done()
    run.tell("loss")
    assert caplog.records == []


def test_a_terminal_has_a_bar(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress_bar.sys.stderr, "isatty", lambda: True)
    run = ProgressBar(total=3, done=1, shown=True)
    run.step_done()
    run.tell("loss 3")
    run.close()
    assert re.search(r"2/3 .*loss 3", capsys.readouterr().err)
    assert caplog.records == []
