"""Run the quickstart's recipe at 48 px with other keys, and keep the results, so that a stopped benchmark resumes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml"]
DATA = Path("data/demo")
# Sizes of the quickstart with which these benchmarks were first run. New records can then be compared with old ones.
SIZES = {"views.both.size_px": "48", "optim.epochs": "12"}


def write_demo_data() -> None:
    subprocess.run([sys.executable, "-m", "bt_plugin", "demo-data", str(DATA)], check=True)


def run(run_dir: Path, options: list[str]) -> dict[str, Any]:
    """Run the quickstart, evaluated in each epoch, unless its results are kept already. Return them.

    Args:
        run_dir: The run's directory. The results are kept next to it, as RUN_DIR.json.
        options: Changed keys of the recipe.
    """
    kept = run_dir.with_suffix(".json")
    if not kept.exists():
        given = {option.partition("=")[0] for option in options}
        sizes = [f"{key}={value}" for key, value in SIZES.items() if key not in given]
        changes = [f"run.output_dir={run_dir}", "eval.every_epochs=1", *sizes, *options]
        command = [*LAUNCH, "-m", "bt_plugin", "pretrain", "recipes/pretrain/quickstart.yaml", *changes]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        kept.write_text(json.dumps({"options": options, **_measured(run_dir)}))
    result: dict[str, Any] = json.loads(kept.read_text())
    print(run_dir.name, {key: f"{value:.1%}" for key, value in result["knn_top1"].items()}, flush=True)
    return result


def _measured(run_dir: Path) -> dict[str, Any]:
    lines = {name: (run_dir / f"{name}.jsonl").read_text().splitlines() for name in ("metrics", "evaluations")}
    evaluations = [json.loads(line) for line in lines["evaluations"]]
    return {
        "knn_top1": json.loads((run_dir / "summary.json").read_text())["knn_top1"],
        "knn_top1_by_step": {each["step"]: each["knn_top1"] for each in evaluations},
        "loss": [json.loads(line)["loss"] for line in lines["metrics"]],
    }
