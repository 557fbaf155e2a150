"""Compare the metrics that need no labels with kNN accuracy, over a quickstart that is evaluated after each epoch.

python benchmarks/signs.py --seeds 0 1 2
python docs/signs_chart.py

The record has every evaluation, the values of the baselines, and Spearman's rank correlation with kNN over the epochs
of each run. The second command draws docs/signs.png from the newest record.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import write_record

from bt_plugin.evaluation.final_evaluation import FINAL_METRICS

# The result of a run is kept here, so that the same command resumes after a stop.
RUNS = Path("runs/signs")
SIGNS = ("view_retrieval_top1", "rankme", "effective_rank", "lidar")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="quickstart", choices=["quickstart", "quickstart_vit"])
    parser.add_argument("options", nargs="*", help="changes to the recipe, such as optim.epochs=4")
    arguments = parser.parse_intermixed_args()
    subprocess.run([sys.executable, "-m", "bt_plugin", "demo-data", "data/demo"], check=True)
    runs = [run(arguments.recipe, seed, arguments.options) for seed in arguments.seeds]
    path = write_record("signs", {"recipe": arguments.recipe, "runs": runs})
    print(f"{'seed':>4}", *(f"{name:>20}" for name in SIGNS), " (Spearman with knn_top1)")
    for result in runs:
        print(f"{result['seed']:>4}", *(f"{result['spearman'][name]:>20.2f}" for name in SIGNS))
    print(path)


def run(recipe: str, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """Run a recipe with an evaluation after each epoch, unless its results are kept. Return them."""
    kept = RUNS / f"{'_'.join([recipe, str(seed), *options])}.json"
    if not kept.exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(measured(recipe, seed, options)))
    result: dict[str, Any] = json.loads(kept.read_text())
    return result


def measured(recipe: str, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """Run a recipe with an evaluation after each epoch, and return its evaluations and baselines."""
    with tempfile.TemporaryDirectory() as folder:
        changes = ["eval.every_epochs=1", *options, f"run.seed={seed}", f"run.output_dir={folder}/run"]
        command = [sys.executable, "-m", "bt_plugin", "pretrain", f"recipes/pretrain/{recipe}.yaml", *changes]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
        lines = (Path(folder) / "run" / "evaluations.jsonl").read_text().splitlines()
    evaluations = [json.loads(line) for line in lines]
    knn = [line["knn_top1"] for line in evaluations]
    return {
        "seed": seed,
        "view_retrieval_images": summary["view_retrieval_images"],
        "spearman": {name: spearman(knn, [line[name] for line in evaluations]) for name in SIGNS},
        "baselines": {name: summary[name] for name in FINAL_METRICS},
        "evaluations": evaluations,
    }


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation: -1 to 1, and NaN if all values of a list are equal."""
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Return the rank of each value. Equal values share the mean of their ranks."""
    sorted_values = np.sort(values)
    below, up_to = (np.searchsorted(sorted_values, values, side) for side in ("left", "right"))
    return (below + up_to) / 2


if __name__ == "__main__":
    main()
