"""The kernels on a CPU, run by Triton's interpreter, against the native kernel, bit by bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton comes with torch's CUDA wheels for Linux only")

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


def interpreted(module: str, *arguments: str) -> dict[str, int]:
    """Run a program with Triton's interpreter, which must be chosen before Triton is imported."""
    command = [sys.executable, "-m", f"tests.dali_pipelines.gpu.{module}", *arguments]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
    found: dict[str, int] = json.loads(result.stdout)
    return found


def test_views_are_those_of_the_native_kernel() -> None:
    found = interpreted("interpreted")
    assert len(found) >= 12
    assert found == dict.fromkeys(found, 0), "the number of values that differ"
