"""Measure the settings that change the speed of a step, each alone and all together, alternating.

python benchmarks/switches.py [--config recipes/accelerate/cpu_2proc.yaml] [section.key=value ...]

`bench` measures the images/s of the step, on launched ranks.
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

OFF = ["run.memory_format=contiguous", "run.gradient_as_bucket_view=false"]
# The changes of the recipe for each choice. Ratios are to the first.
CHOICES = {
    "none of them": OFF,
    "run.memory_format=auto": OFF[1:],
    "run.gradient_as_bucket_view=true": OFF[:1],
    "run.static_graph=true": [*OFF, "run.static_graph=true"],
    "run.compile=true": [*OFF, "run.compile=true"],
    "run.mixed_precision=bf16": [*OFF, "run.mixed_precision=bf16"],
    "the first three": ["run.static_graph=true"],
    "all of them": ["run.static_graph=true", "run.compile=true", "run.mixed_precision=bf16"],
    "the defaults": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="recipes/accelerate/cpu_2proc.yaml")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30)
    arguments, changes = parser.parse_known_args()
    write_demo_data("data/demo")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CHOICES}
    for _ in range(arguments.rounds):
        for name, choice in CHOICES.items():
            found[name].append(benched(arguments.config, arguments.seconds, [*choice, *changes]))
    base = rates(found["none of them"])
    for name, results in found.items():
        of_it = rates(results)
        ratio = statistics.median(of_it) / statistics.median(base)
        print(
            f"{name:<35} {statistics.median(of_it):7.1f} ({min(of_it):.1f} to {max(of_it):.1f}) images/s, {ratio:.2f}"
        )
    print(write_record("switches", {"config": arguments.config, "choices": CHOICES, "found": found}))


def rates(results: list[dict[str, Any]]) -> list[float]:
    return [rate for result in results for rate in result["raw"]["step"]]


def benched(config: str, seconds: float, changes: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "bench.json"
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
        command = [*launch, "-m", "bt_plugin", "bench", "recipes/pretrain/quickstart.yaml", *changes]
        options = ["--seconds", str(seconds), "-o", str(output), f"run.output_dir={folder}/run"]
        subprocess.run([*command, *options], check=True, capture_output=True)
        result: dict[str, Any] = json.loads(output.read_text())
    return result


if __name__ == "__main__":
    main()
