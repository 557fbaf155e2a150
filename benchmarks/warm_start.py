"""Compare runs that start from weights with runs that start from random ones, on the demo data.

python benchmarks/warm_start.py --seeds 0 1 2

Two questions, for each seed. The warm runs have another seed than the source of their weights.

- same images: a quickstart at 48 px, and a quarter of it from its export, at several learning rates.
- new images: every second class is the source's, and the others are those of a cold run and of warm ones.

The result of a run is kept in runs/warm_start, so that the same command resumes after a stop. --parts runs less.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

from quick_runs import DATA, run, write_demo_data
from record import write_record
from safetensors.torch import load_file

RUNS = Path("runs/warm_start")
# Both rates of the quickstart, and what they are multiplied by.
LR_WEIGHTS, LR_BIASES = 3.0, 0.03
SCALES = {"1": 1.0, "tenth": 0.1, "thirtieth": 1 / 30}
# What is added to the seed of the source.
OTHER = 10
QUARTER = ["optim.epochs=3", "optim.warmup_epochs=0.5"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parts", nargs="+", choices=("same", "new"), default=["same", "new"])
    arguments = parser.parse_args()
    write_demo_data()
    RUNS.mkdir(parents=True, exist_ok=True)
    parts = {"same": same_images, "new": new_images}
    results = {part: [row for seed in arguments.seeds for row in parts[part](seed)] for part in arguments.parts}
    for part, rows in results.items():
        print_table(part, rows)
    print(write_record("warm_start", {"threads": os.environ.get("OMP_NUM_THREADS", "default"), **results}))


def same_images(seed: int) -> list[dict[str, Any]]:
    """Run the quickstart, then a quarter of it from its export."""
    source = result_of("cold", seed, [f"run.seed={seed}"])
    options = [*QUARTER, f"model.init={folder('cold', seed)}"]
    return [
        source,
        *(result_of(f"warm_{name}", seed, [*warm(seed, scale), *options]) for name, scale in SCALES.items()),
    ]


def new_images(seed: int) -> list[dict[str, Any]]:
    """Run on one half of the classes, then on the other from these weights and from random ones."""
    theirs, ours = halves()
    rows = [
        result_of("new_source", seed, [f"run.seed={seed}", *on(theirs)]),
        result_of("new_cold", seed, [f"run.seed={seed + OTHER}", *on(ours)]),
    ]
    options = [*on(ours), f"model.init={folder('new_source', seed)}"]
    return rows + [
        result_of(f"new_warm_{name}", seed, [*warm(seed, SCALES[name]), *options]) for name in ("1", "tenth")
    ]


def warm(seed: int, scale: float) -> list[str]:
    rates = [f"optim.lr_weights={LR_WEIGHTS * scale:g}", f"optim.lr_biases={LR_BIASES * scale:g}"]
    return [f"run.seed={seed + OTHER}", *rates]


def on(data: Path) -> list[str]:
    return [f"data.train={data}/train", f"data.val={data}/val"]


def halves() -> list[Path]:
    """Return two folders with every second class of the demo data each, by links."""
    folders = [DATA.with_name(f"{DATA.name}_{name}") for name in ("even", "odd")]
    for split in ("train", "val"):
        for number, images in enumerate(sorted((DATA / split).iterdir())):
            link = folders[number % 2] / split / images.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(images.resolve())
    return folders


def folder(name: str, seed: int) -> Path:
    return RUNS / f"{name}_{seed}"


def result_of(name: str, seed: int, options: list[str]) -> dict[str, Any]:
    """Return the results of a run, with its name, the seed of its source, and how far its weights moved."""
    run_dir = folder(name, seed)
    return {**run(run_dir, options), "name": name, "seed": seed, "moved": moved(run_dir)}


def moved(run_dir: Path) -> float | None:
    """Return how far the weights of more than one dimension moved over the run, as a fraction of their norm."""
    if not (run_dir / "initial.safetensors").exists():
        return None
    before, after = load_file(run_dir / "initial.safetensors"), load_file(run_dir / "export" / "backbone.safetensors")
    weights = [key for key, value in before.items() if value.ndim > 1]
    distance = sum(float((after[key] - before[key]).square().sum()) for key in weights)
    return math.sqrt(distance / sum(float(before[key].square().sum()) for key in weights))


def print_table(part: str, rows: list[dict[str, Any]]) -> None:
    """Print a table with the values of all seeds: kNN in %, the first step with the cold run's end, and what moved."""
    ends = {row["seed"]: row["knn_top1"]["pretrained"] for row in rows if row["name"].endswith("cold")}
    print(f"\n| {part} images | untrained | calibrated | start | lowest | end | steps until the cold end | moved |")
    print("|---" * 8 + "|")
    for name in dict.fromkeys(row["name"] for row in rows):
        seeds = [row for row in rows if row["name"] == name]
        scores = [row["knn_top1"] for row in seeds]
        curves = [{int(step): value for step, value in row["knn_top1_by_step"].items()} for row in seeds]
        columns = [[score.get(key) for score in scores] for key in ("untrained", "calibrated", "initialized")]
        columns += [[min(curve.values()) for curve in curves], [score["pretrained"] for score in scores]]
        cells = [", ".join("-" if value is None else f"{100 * value:.1f}" for value in column) for column in columns]
        reached = [
            next((step for step, value in ({0: begun} | curve).items() if (value or 0) >= ends[row["seed"]]), None)
            for begun, curve, row in zip(columns[2], curves, seeds, strict=True)
        ]
        # The source of new images has other classes.
        cells.append("-" if "source" in name else ", ".join("never" if step is None else str(step) for step in reached))
        cells.append(", ".join("-" if row["moved"] is None else f"{100 * row['moved']:.1f} %" for row in seeds))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
