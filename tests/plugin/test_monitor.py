from __future__ import annotations

import json
import time
from pathlib import Path

from bt_plugin.monitor import Best, MetricsFile, Speed


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

    speed = Speed(global_batch_size=32)
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
