"""Compare the images/s that `bench` predicts with the images/s that `pretrain` logs, alternating between them.

python benchmarks/bench.py [--recipe recipes/pretrain/quickstart.yaml] [section.key=value ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import write_record

from bt_plugin.data.demo_data import write_demo_data

BT_PLUGIN = [sys.executable, "-m", "bt_plugin"]
# Steps of a run, and steps per line of its metrics. The first line includes the cold start, and is left out.
STEPS, LINE = 48, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/pretrain/quickstart.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", default="60", help="duration of bench's measurement, in s")
    arguments, changes = parser.parse_known_args()
    write_demo_data("data/demo")
    rounds = []
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            found = benched(arguments.recipe, changes, arguments.seconds, folder)
            trained = images_per_s(arguments.recipe, changes, folder)
        ratio = found["both"] / statistics.median(trained)
        rounds.append({"bench": found, "pretrain": trained, "ratio": ratio})
        print(
            f"round {number}: bench predicts {found['both']:.1f} images/s with {found['data_wait']:.0%} of the time"
            f" waiting for data; pretrain logs {statistics.median(trained):.1f} images/s; ratio {ratio:.3f}"
        )
    print(write_record("bench", {"recipe": arguments.recipe, "changes": changes, "rounds": rounds}))


def benched(recipe: str, changes: list[str], seconds: str, folder: Path) -> dict[str, Any]:
    output = folder / "bench.json"
    command = [*BT_PLUGIN, "bench", recipe, "--seconds", seconds, "-o", str(output), *changes]
    subprocess.run([*command, f"run.output_dir={folder}/none"], check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def images_per_s(recipe: str, changes: list[str], folder: Path) -> list[float]:
    """Return the images/s of each line of a run's metrics except the first."""
    options = [
        f"run.output_dir={folder}/run",
        f"run.max_steps={STEPS}",
        f"run.log_every_steps={LINE}",
        # One checkpoint at the end, instead of the quickstart's checkpoint every twelve steps. Their cost is measured
        # elsewhere, by benchmarks/checkpoint.py.
        f"run.checkpoint_every_steps={STEPS}",
        "eval.knn=false",
    ]
    subprocess.run([*BT_PLUGIN, "pretrain", recipe, *options, *changes], check=True, stdout=subprocess.DEVNULL)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["images_per_s"] for line in lines[1:]]


if __name__ == "__main__":
    main()
