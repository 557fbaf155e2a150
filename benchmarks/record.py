"""Write records of measurements, with command, commit, hardware and versions."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bt_plugin.runs.provenance import hardware, versions

RECORDS = Path(__file__).parent / "records"


def write_record(name: str, results: dict[str, Any]) -> Path:
    """Write benchmarks/records/DATE_NAME.json. An existing record is never overwritten.

    Args:
        name: Name of the measurement.
        results: Content of the record besides the environment.
    """
    now = datetime.now(timezone.utc)
    path = RECORDS / f"{now:%Y-%m-%d}_{name}.json"
    if path.exists():
        path = RECORDS / f"{now:%Y-%m-%d_%H%M%S}_{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")
    return path


def environment() -> dict[str, Any]:
    """Return the command, commit, hardware and versions of this run."""
    found = hardware()
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno") else ""),
        **found,
        "gpu": "none; GPU: not yet measured" if found["gpu"] == "none" else found["gpu"],
        "python": platform.python_version(),
        "versions": versions(),
    }


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=RECORDS.parent)
    return result.stdout.strip()
