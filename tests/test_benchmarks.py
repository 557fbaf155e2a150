"""The contenders of the benchmarks still run, although the code that they use changes between benchmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# On made-up views of 32 px. The official code and solo-learn need clones of theirs.
STEPS = """
import argparse, tempfile
import peers, step
parser = argparse.ArgumentParser()
peers.add_arguments(parser)
arguments = parser.parse_args(["--batch-size=4", "--size-px=32", "--projector", "16", "16"])
with tempfile.TemporaryDirectory() as folder:
    for name, maker in step.contenders(arguments, folder).items():
        act = maker()
        act()
        print(name, "stepped")
"""
OPTIMIZERS = """
import optimizer
for name in ("ours", "lightly", "sgd"):
    optimizer.stepping(name, "torchvision/shufflenet_v2_x0_5", [16, 16])()
    print(name, "stepped")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "stepped"), [(STEPS, {"ours", "lightly"}), (OPTIMIZERS, {"ours", "lightly", "sgd"})], ids=["step", "lars"]
)
def test_contenders_step(code: str, stepped: set[str], small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(small_data)
    prepared = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'benchmarks')!r})\n{code}"
    result = subprocess.run([sys.executable, "-c", prepared], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert {line.split()[0] for line in result.stdout.splitlines() if line.endswith("stepped")} == stepped
