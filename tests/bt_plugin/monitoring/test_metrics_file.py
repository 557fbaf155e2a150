from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bt_plugin.errors import FileError
from bt_plugin.monitoring.meters import Best, Speed
from bt_plugin.monitoring.metrics_file import MetricsFile, read_lines


def steps(run_dir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_continued_file_holds_every_step_once(tmp_path: Path) -> None:
    first = MetricsFile(tmp_path, 0)
    for step in range(1, 8):
        first.write({"step": step, "loss": 1.0})
    first.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')  # a kill in mid-write
    second = MetricsFile(tmp_path, 5)
    second.write({"step": 6, "loss": 2.0})
    second.close()
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_speed_counts_images_and_waiting() -> None:
    def slow_batches() -> object:
        for batch in range(4):
            time.sleep(0.05)
            yield batch

    speed = Speed(images_per_batch=32)
    seen = []
    for batch in speed.watch(slow_batches()):  # type: ignore[arg-type]
        seen.append(batch)
        time.sleep(0.05)
    report = speed.report()
    assert seen == [0, 1, 2, 3]
    assert 0.3 < report["data_wait"] < 0.7
    assert 150 < report["images_per_s"] < 4 * 32 / 0.4 + 1
    assert speed.report()["images_per_s"] == 0, "each report begins anew"


def test_the_best_is_kept_with_its_step() -> None:
    best = Best({"loss": (3.0, 4)})
    for step, loss in ((5, 3.0), (6, float("nan")), (7, 2.0), (8, float("-inf")), (9, 2.5), (10, 2.0)):
        best.watch(step, lower={"loss": loss, "other": loss})
    assert best.values == {"loss": (2.0, 7), "other": (2.0, 7)}


DAMAGED = [
    b"\0\0\0\n",
    b"\n",
    b"\xff\xfe\n",
    b"[1]\n",
    b'{"step": "x"}\n',
    b'{"loss": 1}\n',
    b'{"step": 4, "loss": "low"}\n',
    b'{"step": -4}\n',
    b"[" * 100_000 + b"\n",
    b'{"step": ' + b"9" * 5000 + b"}\n",
    b'{"step": true}\n',
    b'{"step": 4, "loss": ' + b"9" * 400 + b"}\n",
]


def test_damaged_lines_are_passed_over_with_a_warning_and_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = [json.dumps({"step": step, "loss": 1.0, "probe": None}).encode() + b"\n" for step in range(1, 14)]
    lines = [line for pair in zip(sound, DAMAGED) for line in pair]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines))
    assert [values["step"] for values in read_lines(tmp_path / "metrics.jsonl")] == list(range(1, 13))
    assert f"{len(DAMAGED)} damaged lines are left out. The first is line 2" in caplog.text
    file = MetricsFile(tmp_path, 5)
    file.write({"step": 6, "loss": 2.0})
    file.close()
    assert [values["step"] for values in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    kept = (tmp_path / "metrics.jsonl").read_bytes()
    assert all(line in kept for line in DAMAGED), "nothing of the user's is lost"


@given(content=st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_lines_or_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 0.5}\n' + content)
    found = read_lines(tmp_path / "metrics.jsonl")
    assert found[0] == {"step": 1, "loss": 0.5}
    assert all(isinstance(values["step"], int) for values in found)


def test_a_file_that_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(FileError, match=r"metrics\.jsonl: is a pipe; only regular files are read"):
        read_lines(tmp_path / "metrics.jsonl")
