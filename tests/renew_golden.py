"""Write tests/golden/quickstart_losses.json anew: python -m tests.renew_golden (half an hour on two quiet cores).

The losses are this machine's, with all its cores. The spread is the largest distance from them of the same launches
with older processors' code and on one core.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch

from bt_plugin.data.demo_data import write_demo_data
from bt_plugin.runs.provenance import hardware
from tests.other_processors import environment_of
from tests.test_golden import CONFIGS, GOLDEN, losses

# Of tests.other_processors: the last number is that of the cores, which are a launch's threads.
OTHERS = ("native-1", "avx2-avx2-2", "avx2-avx2-1", "default-sse41-2", "default-sse41-1", "oldest-1")


def measured(setting: str, data: Path, folder: Path) -> dict[str, list[float]]:
    """Return the losses in a setting, by the world size.

    Args:
        setting: A key of tests.other_processors.SETTINGS.
        data: The demo data.
        folder: An empty folder for runs and caches.
    """
    cores = os.sched_getaffinity(0)
    environment = environment_of(setting, folder)
    try:
        if setting.endswith("-1"):
            os.sched_setaffinity(0, {min(cores)})
        return {size: losses(size, data, folder / f"run-{size}", environment=environment) for size in CONFIGS}
    finally:
        os.sched_setaffinity(0, cores)


def spread_of(recorded: dict[str, list[float]], others: list[dict[str, list[float]]]) -> list[float]:
    """Return the largest relative distance at each step, over settings and world sizes."""
    distances = [
        [abs(loss - expected) / expected for loss, expected in zip(other[size], recorded[size], strict=True)]
        for other in others
        for size in recorded
    ]
    return [float(f"{max(step):.1e}") for step in zip(*distances, strict=True)]


def main() -> None:
    """Measure all settings and write the file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_demo_data(folder / "data")
        recorded, *others = (measured(each, folder / "data", folder / each) for each in ("native-2", *OTHERS))
    golden = {
        "holds_for": {
            "processor": hardware()["cpu"],
            "cores": len(os.sched_getaffinity(0)),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
        },
        "spread_of": OTHERS,
        "spread": spread_of(recorded, others),
        "losses": recorded,
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
