"""What every record says besides its numbers: command, commit, hardware, versions."""

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

import torch

from bt_plugin.versions import versions

RECORDS = Path(__file__).parent / "records"


def write_record(name: str, results: dict[str, Any]) -> Path:
    """Writes benchmarks/records/DATE_NAME.json, and never over another."""
    now = datetime.now(timezone.utc)
    path = RECORDS / f"{now:%Y-%m-%d}_{name}.json"
    if path.exists():
        path = RECORDS / f"{now:%Y-%m-%d_%H%M%S}_{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")
    return path


def environment() -> dict[str, Any]:
    """Command, commit, hardware and versions of this run."""
    has_gpu = torch.cuda.is_available()
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno") else ""),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if has_gpu else "none; GPU: not yet measured",
        "python": platform.python_version(),
        "versions": versions(),
    }


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=RECORDS.parent)
    return result.stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
