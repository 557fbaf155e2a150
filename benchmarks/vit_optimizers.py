"""Train a tiny vision transformer with LARS and with AdamW, on the demo data.

python benchmarks/vit_optimizers.py --seeds 0 1 2

The network is timm's vision transformer for 48 px, with patches of 8 px, width 128 and 4 blocks. All else is the
quickstart at 48 px. It has no BatchNorm, so the calibrated baseline is the untrained network. Results are kept in
runs/vit_optimizers, so that the same command resumes after a stop.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from quick_runs import run, write_demo_data
from record import write_record

RUNS = Path("runs/vit_optimizers")
ARGS = {"img_size": 48, "patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}
NETWORK = ["model.backbone=timm/vit_tiny_patch16_224", *(f"model.args.{key}={value}" for key, value in ARGS.items())]
# The quickstart changes the rates of LARS, which AdamW does not take, so they get their defaults. AdamW's peak rate is
# half of optim.lr, because the global batch has 128 images.
ADAMW = ["optim.name=adamw", "optim.lr_weights=0.2", "optim.lr_biases=0.0003"]
OPTIMIZERS = {
    "lars": [],
    "adamw_5e-4": [*ADAMW, "optim.lr=5e-4"],
    "adamw_2e-3": [*ADAMW, "optim.lr=2e-3"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    write_demo_data()
    RUNS.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in OPTIMIZERS}
    for seed in seeds:
        for name, options in OPTIMIZERS.items():
            results[name].append(run(RUNS / f"{name}_{seed}", [f"run.seed={seed}", *NETWORK, *options]))
    print_table(results)
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    print(write_record("vit_optimizers", {"seeds": seeds, "threads": threads, "results": results}))


def print_table(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print kNN top-1 in % and the last loss of each seed."""
    print("| | calibrated | pretrained | last loss |\n|---|---|---|---|")
    for name, runs in results.items():
        columns = [[100 * each["knn_top1"][key] for each in runs] for key in ("calibrated", "pretrained")]
        columns.append([each["loss"][-1] for each in runs])
        cells = (", ".join(f"{value:.1f}" for value in column) for column in columns)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
