"""The contenders of the benchmarks still run, although the code that they use changes between benchmarks."""

from __future__ import annotations

import json
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


TURNS = """
import itertools, json, sys, time
sys.path.insert(0, {benchmarks!r})
import turns

def ours():
    return lambda: time.sleep(0.01)

def broken():
    raise RuntimeError("no such kernel")

def tired():
    count = itertools.count(1)
    def act():
        assert next(count) <= 5, "out of memory"
    return act

if __name__ == "__main__":
    kept = []
    makers = {{"ours": ours, "broken": broken, "tired": tired}}
    times_s = turns.by_turns(makers, 3, 1, ahead=0, on_round=lambda times_s: kept.append(json.dumps(times_s)))
    assert [len(json.loads(each)["ours"]) for each in kept] == [1, 2, 3]
    assert {{name: len(times) for name, times in times_s.items()}} == {{"ours": 3}}
    assert len(turns.by_turns({{"ours": ours}}, 99, 1, ahead=0, minutes=0.0)["ours"]) == 1
"""


def test_a_contender_that_fails_is_left_out(tmp_path: Path) -> None:
    """At its start or later; the others are measured, each round is kept, and the time is limited."""
    program = tmp_path / "program.py"
    program.write_text(TURNS.format(benchmarks=str(REPOSITORY / "benchmarks")))
    result = subprocess.run([sys.executable, program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "broken failed: RuntimeError: no such kernel" in result.stdout
    assert "tired failed: AssertionError: out of memory" in result.stdout
    assert "stopped after 0.0 minutes" in result.stdout


def test_a_setting_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import measure
    import record
    import sweep

    def one(*arguments: str) -> dict[str, float]:
        if "float16" in arguments[-1]:
            raise measure.MeasurementError("--one:\nTraceback\nRuntimeError: no half precision")
        return {"images_per_s": 100.0}

    monkeypatch.setattr(sweep, "in_a_process", one)
    monkeypatch.setattr(record, "RECORDS", tmp_path)
    monkeypatch.setattr(record.subprocess, "run", _no_git)
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--device", "cpu", "--data", str(tmp_path), "--repeats", "2"])
    sweep.main()
    (path,) = tmp_path.glob("*_sweep_cpu.json")
    rows = json.loads(path.read_text())["results"]
    assert {str(row["changed"]): row["failed"] for row in rows if row["failed"]} == {
        "{'float16': True}": "RuntimeError: no half precision"
    }
    assert all(row["images_per_s"] == [100.0, 100.0] for row in rows if not row["failed"])


def _no_git(*arguments: object, **options: object) -> None:
    raise FileNotFoundError("git")


def test_spearman_is_that_of_scipy() -> None:
    from scipy.stats import spearmanr

    code = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'benchmarks')!r}); import signs"
    values = ([3, 1, 2, 2, 7, 2.5], [1, 0, 5, 5, 9, 1])
    result = subprocess.run(
        [sys.executable, "-c", f"{code}; print(signs.spearman(*{values}))"], capture_output=True, text=True, check=True
    )
    assert float(result.stdout) == pytest.approx(spearmanr(*values).statistic)
