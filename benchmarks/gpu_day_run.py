"""Share a time budget among the parts of gpu_day.py, and run each part as a process with a limit of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# Time between SIGTERM and SIGKILL. A training run writes its checkpoint in it.
GRACE_S = 20.0


@dataclass(frozen=True)
class Part:
    """A part of the day: one command.

    Args:
        name: Name in the table.
        groups: Arguments of gpu_day.py that include this part.
        least_min: Minutes below which the part cannot measure anything.
        wanted_min: Minutes that are enough.
        command: Function that returns the command for a limit in seconds.
        missing: What the part needs and does not have, empty if it can run.
        takes_rest: Whether the part also gets the minutes that no other part wants, up to most_min.
        most_min: Largest limit in minutes.
        output: JSON file that the command writes, other than a record.
    """

    name: str
    groups: tuple[str, ...]
    least_min: float
    wanted_min: float
    command: Callable[[float], list[str]]
    missing: str = ""
    takes_rest: bool = False
    most_min: float = 600.0
    output: Path | None = None


class Outcome(NamedTuple):
    """What became of a part.

    Args:
        part: Name of the part.
        command: Its command, empty if it did not run.
        limit_min: Its limit in minutes.
        seconds: Duration of the command in seconds.
        ended: "done", or why it is not done.
        output: What the command printed.
        found: What the command wrote as JSON, None if it wrote nothing.
        record: Name of the record that has it, if there is one.
    """

    part: str
    command: list[str]
    limit_min: float
    seconds: float
    ended: str
    output: str = ""
    found: dict[str, Any] | None = None
    record: str | None = None


def shares(parts: Sequence[Part], minutes: float) -> dict[str, float]:
    """Return the limit of each part in minutes, 0 for a part that the budget leaves out.

    Every part first gets the least that it needs, in the order of importance. Then each is raised to what it wants.

    Args:
        parts: Parts, the most important first.
        minutes: The budget. The limits add up to at most this.
    """
    limits = dict.fromkeys((part.name for part in parts), 0.0)
    able = [part for part in parts if not part.missing]
    left = minutes
    for part in able:
        if part.least_min <= left:
            limits[part.name] = part.least_min
            left -= part.least_min
    for part in able:
        if limits[part.name]:
            more = min(part.wanted_min - part.least_min, left)
            limits[part.name] += more
            left -= more
    for part in able:
        if part.takes_rest and limits[part.name]:
            more = max(0.0, min(part.most_min - limits[part.name], left))
            limits[part.name] += more
            left -= more
    return limits


def run_part(part: Part, limit_min: float, *, records: Path, logs: Path, environment: Mapping[str, str]) -> Outcome:
    """Run a part, and collect what it wrote. A part that fails or is stopped raises nothing.

    Args:
        part: The part.
        limit_min: Its limit in minutes, the time for stopping it included.
        records: Folder of the records, where the part writes too.
        logs: Folder for what the part prints.
        environment: Environment of the command.
    """
    if part.missing:
        return Outcome(part.name, [], 0.0, 0.0, f"not run: {part.missing}")
    if limit_min < part.least_min:
        return Outcome(part.name, [], 0.0, 0.0, f"not run: it needs {part.least_min:g} minutes, and no time is left")
    limit_s = 60 * limit_min
    grace_s = min(GRACE_S, limit_s / 4)
    command = part.command(limit_s - grace_s)
    before = set(records.glob("*.json"))
    log = logs / f"{part.name.replace(' ', '_')}.log"
    begun_s = time.monotonic()
    ended = _limited(command, limit_s - grace_s, grace_s=grace_s, log=log, environment=environment)
    seconds = time.monotonic() - begun_s
    output = log.read_text(errors="replace")
    new = sorted(set(records.glob("*.json")) - before)
    file = part.output if part.output and part.output.is_file() else new[-1] if new else None
    found = _read(file) if file else None
    record = file.name if file and file in new else None
    return Outcome(part.name, command, limit_min, seconds, ended, output, found, record)


def _limited(command: list[str], limit_s: float, *, grace_s: float, log: Path, environment: Mapping[str, str]) -> str:
    """Run a command with its output in a file, and stop it with all its processes at the limit."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            _signal(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
            return f"stopped after {limit_s / 60:.1f} minutes"
        finally:
            # The contenders of a benchmark are processes of its group.
            _signal(process.pid, signal.SIGKILL)
            process.wait()
    if code < 0:
        return f"failed: {signal.Signals(-code).name}"
    return "done" if code == 0 else f"failed: exit code {code}: {_last_line(log)}"


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it printed nothing"


def _read(file: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file, None if it was cut while it was written."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except ValueError:
        return None
    return found
