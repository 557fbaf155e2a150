"""Run a quickstart with several seeds, and measure its kNN accuracy, time and memory.

python benchmarks/quickstart.py --seeds 0 1 2
python benchmarks/quickstart.py --recipe quickstart_vit
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import write_record

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="quickstart", choices=["quickstart", "quickstart_vit"])
    arguments = parser.parse_args()
    subprocess.run([sys.executable, "-m", "bt_plugin", "demo-data", "data/demo"], check=True)
    runs = [run(arguments.recipe, seed) for seed in arguments.seeds]
    gains = {
        baseline: [result["knn_top1"]["pretrained"] - result["knn_top1"][baseline] for result in runs]
        for baseline in ("untrained", "calibrated")
    }
    path = write_record(arguments.recipe, {"gains": gains, "runs": runs})
    columns = ("raw", "untrained", "calibrated", "pretrained")
    print(f"{'seed':>4}", *(f"{name:>11}" for name in columns), f"{'seconds':>8} {'MiB':>6}")
    for result in runs:
        shares = (f"{result['knn_top1'][name]:>11.1%}" for name in columns)
        print(f"{result['seed']:>4}", *shares, f"{result['wall_s']:>8.0f} {result['peak_memory_mib']:>6.0f}")
    print(path)


def run(recipe: str, seed: int) -> dict[str, Any]:
    """Run a recipe, and return its results. The peak memory is that of the largest process so far."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"run.seed={seed}", f"run.output_dir={folder}/run"]
        command = [*LAUNCH, "-m", "bt_plugin", "pretrain", f"recipes/pretrain/{recipe}.yaml", *options]
        begun_s = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall_s = time.perf_counter() - begun_s
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
        metrics, evaluations = (
            (Path(folder) / "run" / f"{name}.jsonl").read_text().splitlines() for name in ("metrics", "evaluations")
        )
    return {
        "seed": seed,
        "knn_top1": summary["knn_top1"],
        "wall_s": wall_s,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "metrics": [json.loads(line) for line in metrics],
        "evaluations": [json.loads(line) for line in evaluations],
    }


if __name__ == "__main__":
    main()
