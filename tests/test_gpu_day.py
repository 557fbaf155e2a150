"""benchmarks/gpu_day.py: its time budget, its table, and the real command on a CPU at small sizes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
PLAIN = """collected 812 items / 808 deselected / 4 selected

tests/a.py::test_one PASSED                                              [ 25%]
tests/a.py::test_two[run.mixed_precision=bf16 x] SKIPPED (torch sees...) [ 50%]
tests/b.py::test_three FAILED                                            [ 75%]
"""
WORKERS = """created: 1/1 worker
1 worker [3 items]

tests/a.py::test_one
[gw0] [ 33%] PASSED tests/a.py::test_one
tests/a.py::test_two
[gw0] [ 66%] PASSED tests/a.py::test_two
tests/a.py::test_three
[gw0] node down: Not properly terminated
[gw0] [100%] FAILED tests/a.py::test_three
"""


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_day

    return gpu_day


def arguments(**changed: object) -> argparse.Namespace:
    given = {"cpu": False, "official": Path("barlowtwins"), "cifar10": Path("cifar10"), "data": None, "tests": None}
    return argparse.Namespace(**{**given, **changed})


@pytest.mark.parametrize("minutes", [0.1, 1, 3, 9.5, 12, 29, 200])
@pytest.mark.parametrize("group", ["check", "step", "loader", "train", "all"])
def test_the_limits_fit_the_budget(day: ModuleType, group: str, minutes: float) -> None:
    parts = [part for part in day.parts_of(arguments(), Path("work")) if group in (*part.groups, "all")]
    limits = day.shares(parts, minutes)
    assert sum(limits.values()) <= minutes + 1e-9
    for part in parts:
        assert limits[part.name] == 0 or limits[part.name] >= part.least_min
    if minutes >= day.MINUTES[group]:
        assert all(limits.values()), "each part of the group has time"


def test_the_most_important_parts_get_the_time(day: ModuleType) -> None:
    parts = day.parts_of(arguments(), Path("work"))
    assert [part.name for part in parts][:4] == ["doctor", "gpu tests", "step", "bench"]
    limits = day.shares(parts, 5)
    assert [name for name, limit in limits.items() if limit] == ["doctor", "gpu tests", "step"]
    assert day.shares(parts, 100)["CIFAR-10"] > 60, "the rest"
    assert day.shares(day.parts_of(arguments(cifar10=None), Path("work")), 100)["CIFAR-10"] == 0


@pytest.mark.parametrize(
    ("output", "counts"),
    [
        (PLAIN, {"passed": 1, "failed": 1, "skipped": 1, "not run": 1}),
        (WORKERS, {"passed": 2, "failed": 1, "skipped": 0, "not run": 0}),
        ("ERROR tests/c.py\nERROR tests/c.py - ImportError", {"passed": 0, "failed": 1, "skipped": 0, "not run": None}),
        ("", {"passed": 0, "failed": 0, "skipped": 0, "not run": None}),
    ],
    ids=["stopped", "crashed", "no import", "nothing"],
)
def test_tests_are_counted(day: ModuleType, output: str, counts: dict[str, int | None]) -> None:
    assert day.test_counts(output) == counts
    outcome = day.Outcome("gpu tests", ["pytest"], 1.0, 1.0, "done", output)
    (row,) = day.rows_of({"gpu tests": outcome}, cores=16)
    assert row.judged() == ("failed" if counts["failed"] else "not all ran")
    assert day.exit_code({"gpu tests": outcome}) == 1


def test_only_tests_that_all_ran_are_a_success(day: ModuleType) -> None:
    passed = "1 worker [1 item]\n[gw0] [100%] PASSED tests/a.py::test_one\n"
    for output, ended, code in ((passed, "done", 0), (passed, "stopped after 1.0 minutes", 1)):
        outcome = day.Outcome("gpu tests", ["pytest"], 1.0, 1.0, ended, output)
        assert day.exit_code({"gpu tests": outcome}) == code
    skipped = passed.replace("PASSED", "SKIPPED")
    assert day.exit_code({"gpu tests": day.Outcome("gpu tests", ["pytest"], 1.0, 1.0, "done", skipped)}) == 1


def outcomes(day: ModuleType) -> dict[str, object]:
    bench = {"loader": 3000.0, "step": 1000.0, "both": 950.0}
    step = {"results": {"ours": {"images_per_s": 1000.0, "action_s": [1.0]}, "official": {"ratio": 1.9}}}
    found = {"bench": bench, "step": step, "CIFAR-10": None, "sweep": None}
    return {
        name: day.Outcome(name, [name], 3.0, 9.0, "done" if each else "failed: SIGSEGV", "", each)
        for name, each in found.items()
    }


def test_the_table_has_the_targets_next_to_the_numbers(day: ModuleType) -> None:
    found = outcomes(day)
    shown = day.table(day.rows_of(found, cores=16), found, is_cpu=False)
    for line in (
        "| training, compared with the step on views in memory | 0.95 x | at least 0.97 x | missed |  |",
        "| the loader with 16 cores, compared with the step's demand | 3.00 x | at least 1.50 x | met |  |",
        "| the step, compared with the official code | 1.90 x | at least 1.80 x | met "
        "| cudnn.benchmark is on for both |",
        "| CIFAR-10, ResNet-18, 200 epochs, kNN top-1 | not measured | at least 84.2 % | not measured "
        "| failed: SIGSEGV |",
        "| DALI's graph with its best setting | not measured |  | not measured | failed: SIGSEGV |",
        "sweep: failed: SIGSEGV",
    ):
        assert line in shown.splitlines()
    fewer = {row.what: row.judged() for row in day.rows_of(found, cores=8)}
    assert fewer["the loader with 8 cores, compared with the step's demand"].startswith("no verdict")


def test_numbers_of_a_cpu_are_no_result(day: ModuleType) -> None:
    found = outcomes(day)
    shown = day.table(day.rows_of(found, cores=16), found, is_cpu=True)
    assert shown.count("They are no result.") == 2
    assert "| met |" not in shown
    assert "| missed |" not in shown


def test_a_run_of_fewer_epochs_has_no_verdict(day: ModuleType) -> None:
    for epochs, verdict in ((200.0, "met"), (20.0, "no verdict: 20 epochs")):
        summary = {"knn_top1": {"pretrained": 0.9}, "epochs": epochs}
        (row,) = day.rows_of({"CIFAR-10": day.Outcome("CIFAR-10", ["x"], 1, 1, "done", "", summary)}, cores=16)
        assert (row.shown(), row.judged()) == ("90.0 %", verdict)


FAILING = "import sys; sys.exit('no kernel image')"
SLOW = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).wait()"
CRASHING = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        (FAILING, "failed: exit code 1: no kernel image"),
        (SLOW, "stopped after 0.0 minutes"),
        (CRASHING, "failed: SIGSEGV"),
        ("import json; json.dump({'images_per_s': 3}, open(RECORD, 'w'))", "done"),
    ],
    ids=["fails", "slow", "crashes", "works"],
)
def test_a_part_ends_in_its_time(day: ModuleType, tmp_path: Path, code: str, ended: str) -> None:
    code = code.replace("RECORD", repr(str(tmp_path / "one.json")))
    part = day.Part("one", ("step",), 0.0, 1.0, lambda limit_s: [sys.executable, "-c", code])
    limit_min = 0.02 if "sleep" in code else 1.0
    outcome = day.run_part(part, limit_min, records=tmp_path, logs=tmp_path, environment=os.environ)
    assert outcome.ended == ended
    assert outcome.seconds < 30
    assert outcome.found == ({"images_per_s": 3} if ended == "done" else None)


def test_the_others_run_after_one_that_fails(
    day: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is in the record, and so is what the last one left in it when it was stopped."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work" / "logs").mkdir(parents=True)
    sweep = "{'results': [{'changed': {}, 'images_per_s': [3.0], 'failed': None}]}"
    kept = f"import json, os, time; json.dump({sweep}, open(os.environ['BENCHMARK_RECORDS'] + '/a.json', 'w'))"
    parts = [
        day.Part("step", ("step",), 0.01, 1.0, lambda limit_s: [sys.executable, "-c", FAILING]),
        day.Part("bench", ("train",), 50.0, 60.0, lambda limit_s: ["none"]),
        day.Part("sweep", ("loader",), 0.01, 0.15, lambda limit_s: [sys.executable, "-c", f"{kept}; time.sleep(60)"]),
    ]
    given = arguments(cpu=True, group="all", output=tmp_path / "records")
    found = day.run_all(parts, 5.0, given, tmp_path / "work")
    assert day.exit_code(found) == 1
    (record,) = (tmp_path / "records").glob("*_gpu_day_all.json")
    ended = {part["part"]: part["ended"] for part in json.loads(record.read_text())["parts"]}
    assert ended["step"] == "failed: exit code 1: no kernel image"
    assert ended["bench"] == "not run: it needs 50 minutes, and no time is left"
    assert ended["sweep"].startswith("stopped after")
    said = capsys.readouterr().out
    assert "| DALI's graph with its best setting | 3 images/s |" in said
    assert "bench: not run: it needs 50 minutes" in said


def test_a_part_without_time_is_named(day: ModuleType, tmp_path: Path) -> None:
    part = day.Part("one", ("step",), 2.0, 3.0, lambda limit_s: ["none"])
    outcome = day.run_part(part, 0.0, records=tmp_path, logs=tmp_path, environment=os.environ)
    assert outcome.ended == "not run: it needs 2 minutes, and no time is left"
    part = day.Part("one", ("step",), 2.0, 3.0, lambda limit_s: ["none"], missing="give the images with --cifar10")
    outcome = day.run_part(part, 2.0, records=tmp_path, logs=tmp_path, environment=os.environ)
    assert outcome.ended == "not run: give the images with --cifar10"


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "gpu_day.py"), *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_without_a_gpu_it_measures_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, "all")
    assert result.returncode == 2
    assert "torch sees no GPU, and this command measures one. Give --cpu" in result.stderr
    result = run(tmp_path, "step", "--cpu", "--official", "nowhere")
    assert result.returncode == 2
    assert "--official: nowhere is not allowed, because nowhere/main.py does not exist" in result.stderr
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_the_command_on_a_cpu(demo_data: Path, tmp_path: Path) -> None:
    """The step is measured and recorded, and tests that are skipped are no success."""
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(demo_data)
    result = run(tmp_path, "step", "--cpu")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (
        "| the step, compared with the official code | not measured | at least 1.80 x | not measured |" in result.stdout
    )
    assert "They are no result." in result.stdout
    record = json.loads(Path(tmp_path, result.stdout.splitlines()[-1]).read_text())
    (part,) = record["parts"]
    assert (part["ended"], record["is_cpu"]) == ("done", True)
    assert part["found"]["results"]["ours"]["images_per_s"] > 0
    assert part["record"].endswith("_step.json")

    tests = REPOSITORY / "tests" / "bt_plugin" / "training" / "test_step.py"
    result = run(tmp_path, "check", "--cpu", "--tests", str(tests))
    assert result.returncode == 1
    assert "| gpu tests, passed | 0 |  | not all ran | 0 passed, 0 failed, 6 skipped, 0 not run |" in result.stdout
