"""The kernels compile where nothing can be kept, and say so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, sys
import numpy as np
logging.basicConfig(format="%(message)s")
{before}
from dali_pipelines.native.compiled import compiled, why_not_cached

@compiled
def double(x):
    return 2 * x

assert double(3) == 6
print(why_not_cached())
"""


def run(before: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(PROGRAM.format(before=before))
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, folder / "program.py"], capture_output=True, text=True, env=environment, check=True
    )


def test_without_a_folder_for_it(tmp_path: Path) -> None:
    """As under a read-only home, where the package is read-only too."""
    result = run("from numba.core import caching; caching.CacheImpl._locator_classes = []", tmp_path)
    assert "no locator available" in result.stdout
    assert result.stderr.count("compiled code is not kept") == 1
    assert "NUMBA_CACHE_DIR" in result.stderr


def test_on_a_full_disk(tmp_path: Path) -> None:
    before = """
from numba.core import caching
def full(self, *_): raise OSError(28, "No space left on device")
caching.IndexDataCacheFile.save = full
"""
    result = run(before, tmp_path)
    assert "No space left on device" in result.stdout
    assert result.stderr.count("compiled code is not kept") == 1


def test_with_one_it_is_kept(tmp_path: Path) -> None:
    result = run("", tmp_path)
    assert result.stdout == "None\n"
    assert result.stderr == ""
    assert list((tmp_path / "cache").rglob("*.nbc"))
