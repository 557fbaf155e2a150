"""Compare raw pixels, an untrained and a pretrained ResNet-18 on the demo data.

python benchmarks/demo_table.py --seeds 0 1 2

The evaluations are kNN, linear probes, and fine-tuning on few labels. The pretraining is the quickstart at 48 px, for
12 epochs. A seed sets the weights, the order, the views, and the choice of labels for fine-tuning.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import write_record

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]
DATA = ["data.train=data/demo/train", "data.val=data/demo/val"]
# The evaluation view of the pretraining.
VIEW = ["view.size_px=48", "view.resize_px=55", "view.interpolation=bicubic"]
METHODS = {
    "kNN": ["knn"],
    "linear": ["linear", "linear.cached=true"],
    "linear on random crops": ["linear", "linear.epochs=30"],
    # The official rate of the classifier is for batches of 256, so it is scaled to 32.
    "10 % of the labels": [
        *("finetune", "finetune.fraction=0.1", "finetune.global_batch_size=32", "finetune.epochs=20"),
        "finetune.lr_classifier=0.0625",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    subprocess.run([sys.executable, "-m", "bt_plugin", "demo-data", "data/demo"], check=True)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            run_dir = f"{folder}/{seed}"
            sizes = ["views.both.size_px=48", "optim.epochs=12"]
            changes = [f"run.seed={seed}", f"run.output_dir={run_dir}", "eval.knn=false", *sizes]
            pretrain = [*LAUNCH, "-m", "bt_plugin", "pretrain", "recipes/pretrain/quickstart.yaml", *changes]
            subprocess.run(pretrain, check=True, stdout=subprocess.DEVNULL)
            for name, subject in (
                ("raw pixels", ["pixels", *DATA, *VIEW]),
                ("untrained", ["torchvision/resnet18", *DATA, *VIEW, "--seed", str(seed)]),
                ("pretrained", [run_dir, *DATA]),
            ):
                for title, (method, *options) in METHODS.items():
                    # Pixels have no network to train. Random crops only show how close cached features come.
                    if (name == "raw pixels" and method == "finetune") or (name != "pretrained" and "crops" in title):
                        continue
                    result = evaluated(method, [*subject, *options, f"run.seed={seed}"], Path(folder))
                    results.setdefault(name, {}).setdefault(title, []).append(result)
                    print(name, title, seed, result["top1"], flush=True)
    print_table(results)
    print(write_record("demo_table", {"seeds": seeds, "results": results}))


def evaluated(method: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as output:
        command = [sys.executable, "-m", "bt_plugin", method, *arguments, f"run.output_dir={output}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (file,) = Path(output).iterdir()
        content = json.loads(file.read_text())
    return {key: content[key] for key in ("top1", "top1_interval", "top5", "images", "command")}


def print_table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """Print the top-1 accuracy of each seed, and the 95 % interval of the first seed."""
    print(f"| | {' | '.join(METHODS)} |")
    print("|---" * (1 + len(METHODS)) + "|")
    for name, columns in results.items():
        cells = []
        for title in METHODS:
            seeds = columns.get(title, [])
            interval = f" ({' to '.join(f'{100 * end:.1f}' for end in seeds[0]['top1_interval'])})" if seeds else "none"
            cells.append(", ".join(f"{100 * result['top1']:.1f}" for result in seeds) + interval)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
