"""Measure the cost of a checkpoint at the official sizes: ResNet-50, projector 8192-8192-8192, momentum of LARS.

python benchmarks/checkpoint.py --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from record import write_record

from bt_plugin.checkpoints.folder import CheckpointMetadata, resume_from
from bt_plugin.checkpoints.state import TrainingState
from bt_plugin.checkpoints.writer import CheckpointWriter
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.models.from_recipe import build_model
from bt_plugin.optim.lars import LARS
from bt_plugin.optim.parameter_groups import parameter_groups

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain" / "imagenet_resnet50_1000ep.yaml"
IMAGES = 1_281_167


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="folder of the checkpoints; default: the system's temporary folder")
    arguments = parser.parse_args()
    recipe = load_recipe(RECIPE)
    accelerator = Accelerator(cpu=True)
    model = build_model(recipe)
    optimizer = LARS(
        parameter_groups(model, lr_weights=0.2, lr_biases=0.2, weight_decay=1e-6), lr=0.0, momentum=0.9, eta=0.001
    )
    model = accelerator.prepare(model, optimizer)[0]
    optimizer.make_state()
    state = TrainingState(accelerator, model, optimizer, timeout=timedelta(seconds=600))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        result = measured(state, Path(folder), arguments.repeats)
    # Length of an epoch that a checkpoint prolongs by 1 %.
    epoch_s = 100 * max(result["waits_median_s"], 0.0)
    result["images_per_s_for_1_percent"] = recipe.steps_per_epoch(IMAGES) * recipe.optim.global_batch_size / epoch_s
    for key, value in result.items():
        print(f"{key:>28} {value if isinstance(value, list) else round(value, 3)}")
    print(write_record("checkpoint", {"recipe": RECIPE.name, **result}))


def measured(state: TrainingState, folder: Path, repeats: int) -> dict[str, Any]:
    """Measure checkpoints during a stand-in for training: matrix products on one core.

    The checkpoint writer has the other core, as if a GPU trained.
    """
    torch.set_num_threads(1)
    matrix = torch.randn(512, 512)

    def work(until: Callable[[], bool]) -> float:
        """Return the number of products per second."""
        begun_s, count = time.perf_counter(), 0
        while not until():
            matrix @ matrix
            count += 1
        return count / (time.perf_counter() - begun_s)

    waits_s, writes_s, slowed, find_s, loads_s = [], [], [], [], []
    writer = CheckpointWriter(state, folder, keep=2)
    for step in range(1, repeats + 1):
        until_s = time.perf_counter() + 2
        alone = work(lambda: time.perf_counter() > until_s)  # noqa: B023
        begun_s = time.perf_counter()
        writer.write(CheckpointMetadata(step, {}, 0, 1, "", {}))
        waits_s.append(time.perf_counter() - begun_s)
        beside = work(lambda: (folder / f"checkpoint-{step}").exists())  # noqa: B023
        writes_s.append(time.perf_counter() - begun_s)
        slowed.append(1 - beside / alone)
        writer.settle()
        begun_s = time.perf_counter()
        found = resume_from(folder, "latest")
        assert found is not None
        find_s.append(time.perf_counter() - begun_s)
        begun_s = time.perf_counter()
        state.restore(found, with_random_states=True)
        loads_s.append(time.perf_counter() - begun_s)
    writer.close()
    size = sum(path.stat().st_size for path in found.iterdir())
    return {
        "mib": size / 2**20,
        "waits_s": waits_s,
        "waits_median_s": statistics.median(waits_s),
        "written_after_s": writes_s,
        "written_after_median_s": statistics.median(writes_s),
        "work_slowed_meanwhile": slowed,
        "verify_s": statistics.median(find_s),
        "load_s": statistics.median(loads_s),
    }


if __name__ == "__main__":
    main()
