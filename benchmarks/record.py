"""Write records of measurements, with command, commit, hardware and versions."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bt_plugin.runs.provenance import hardware, versions

# gpu_day.py names another folder, where its parts then write.
RECORDS = Path(os.environ.get("BENCHMARK_RECORDS", Path(__file__).parent / "records"))


class Record:
    """A file in benchmarks/records that is written after each measurement, so that a later failure loses nothing.

    Args:
        name: Part of the file's name, DATE_NAME.json. A record of an earlier run is never replaced.
        folder: Folder of the file. Default: RECORDS.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        now = datetime.now(timezone.utc)
        folder = RECORDS if folder is None else folder
        self.path = folder / f"{now:%Y-%m-%d}_{name}.json"
        if self.path.exists():
            self.path = folder / f"{now:%Y-%m-%d_%H%M%S}_{name}.json"
        self._environment = environment()

    def write(self, results: dict[str, Any]) -> Path:
        """Replace the file's content by these results."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"environment": self._environment, **results}, indent=1) + "\n")
        return self.path


def write_record(name: str, results: dict[str, Any]) -> Path:
    """Write benchmarks/records/DATE_NAME.json, and never replace an older record."""
    return Record(name).write(results)


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
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent)
    except FileNotFoundError:
        return ""
    return result.stdout.strip()
