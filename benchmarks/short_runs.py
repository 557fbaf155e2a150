"""Keep the results of short runs on a CPU: the commands `On a CPU` in the headers of recipes, after they have ended.

python benchmarks/short_runs.py runs/imagenette_resnet18 --images "JPEG copies of 224 x 224 px"

A run whose settings are not those of its recipe's command is refused.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

from record import write_record

from bt_plugin.config.bundled_recipes import find_recipe
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe

# Keys that a run itself writes into its recipe.yaml.
SET_BY_RUN = (("data", "value_range_used"), ("model", "backbone_sha256"), ("model", "init_sha256"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory, named as its recipe")
    parser.add_argument("--images", required=True, help="which images the recipe's paths had")
    arguments = parser.parse_args()
    rows = [row_of(run) for run in arguments.runs]
    names = ("raw", "untrained", "calibrated", "pretrained")
    print(f"{'kNN top-1':<24}", *(f"{name:>11}" for name in names))
    for row in rows:
        print(f"{row['recipe']:<24}", *(f"{row['summary']['knn_top1'][name]:>11.1%}" for name in names))
    print(write_record("short_runs", {"images": arguments.images, "runs": rows}))


def row_of(run: Path) -> dict[str, Any]:
    """Return the results of a run, if it has the settings of its recipe's command."""
    file = find_recipe(run.name)
    found = re.search(rf"^# On a CPU: .* recipes/pretrain/{file.name} (.*)$", file.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{file} has no line `On a CPU`")
    changes = shlex.split(found[1])
    if settings(load_recipe(run / "recipe.yaml")) != settings(load_recipe(file, changes)):
        raise SystemExit(f"{run} has other settings than the line `On a CPU` of {file}")
    return {
        "recipe": run.name,
        "changes": changes,
        "summary": json.loads((run / "summary.json").read_text()),
        "metrics": [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()],
    }


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return what a command sets, without what a run adds to its recipe."""
    content = recipe.resolved_dict()
    for section, key in SET_BY_RUN:
        del content[section][key]
    return content


if __name__ == "__main__":
    main()
