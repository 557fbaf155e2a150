"""What a checkpoint of a run at its official size costs: ResNet-50, projector 8192-8192-8192, momentum of LARS.

python benchmarks/checkpoint.py --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from record import write_record

from bt_plugin.build import build_model
from bt_plugin.checkpoint import Progress, load_checkpoint, resume_from, save_checkpoint
from bt_plugin.optim import LARS, parameter_groups
from bt_plugin.recipe_file import load_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain" / "imagenet_resnet50_1000ep.yaml"
IMAGES = 1_281_167


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where to write; default: the system's for temporary files")
    arguments = parser.parse_args()
    recipe = load_recipe(RECIPE)
    accelerator = Accelerator(cpu=True)
    model = build_model(recipe)
    optimizer = LARS(parameter_groups(model, 0.2, 0.2, 1e-6), lr=0.0, momentum=0.9, eta=0.001)
    model, optimizer = accelerator.prepare(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # makes the momentum
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        result = measured(accelerator, Path(folder), arguments.repeats)
    steps = recipe.steps_per_epoch(IMAGES)
    result["epoch_s_for_1_percent"] = 100 * result["save_median_s"]
    result["images_per_s_for_1_percent"] = steps * recipe.optim.global_batch_size / result["epoch_s_for_1_percent"]
    for key, value in result.items():
        print(f"{key:>28} {value if isinstance(value, list) else round(value, 2)}")
    print(write_record("checkpoint", {"recipe": RECIPE.name, **result}))


def measured(accelerator: Accelerator, folder: Path, repeats: int) -> dict[str, Any]:
    saves_s, find_s, loads_s = [], [], []
    for step in range(1, repeats + 1):
        begun_s = time.perf_counter()
        save_checkpoint(accelerator, folder, Progress(step, {}, 0, 1), keep=2)
        saves_s.append(time.perf_counter() - begun_s)
        begun_s = time.perf_counter()
        found = resume_from(folder, "latest")
        assert found is not None
        find_s.append(time.perf_counter() - begun_s)
        begun_s = time.perf_counter()
        load_checkpoint(accelerator, found)
        loads_s.append(time.perf_counter() - begun_s)
    size = sum(path.stat().st_size for path in found.iterdir())
    return {
        "mib": size / 2**20,
        "save_s": saves_s,
        "save_median_s": statistics.median(saves_s),
        "verify_s": statistics.median(find_s),
        "load_s": statistics.median(loads_s),
    }


if __name__ == "__main__":
    main()
