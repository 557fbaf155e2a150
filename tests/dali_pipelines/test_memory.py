"""A loader's memory does not grow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


# DALI's CPU graph takes minutes for as many batches; the script's record has it.
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_of_2000_batches(demo_data: Path) -> None:
    script = REPOSITORY / "benchmarks" / "memory.py"
    command = [sys.executable, script, "--data", demo_data / "train", "--one", "native"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    resident_mib = json.loads(result.stdout)["resident_mib"]
    assert len(resident_mib) == 20
    assert max(resident_mib) <= 1.05 * resident_mib[1]
