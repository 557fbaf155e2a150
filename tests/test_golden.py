"""The first losses of the quickstart at 48 px, 14 steps, or four on two ranks, compared with those on record.

Whatever changes them changes what users get from the same recipe and seed. Where that is meant,
`python -m tests.renew_golden` records them anew. The file also says for which processor, torch and number of cores they
hold ("holds_for"), and how far the losses were from them with older processors' code and on one core ("spread").
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "golden" / "quickstart_losses.json"
STEPS = 14
STEPS_OF_TWO = 4
CONFIGS = {"1": "cpu.yaml", "2": "cpu_2proc.yaml"}


def losses(
    world_size: str, data: Path, run_dir: Path, *, steps: int = STEPS, environment: Mapping[str, str] | None = None
) -> list[float]:
    """Return the losses of the first steps, by a real launch of the recipe.

    Args:
        world_size: A key of CONFIGS.
        data: The demo data.
        run_dir: Where the run is written.
        steps: Number of steps.
        environment: The launch's variables. Default: this process's.
    """
    subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", f"recipes/accelerate/{CONFIGS[world_size]}", "-m", "bt_plugin", "pretrain"),
            *("recipes/pretrain/quickstart.yaml", f"data.train={data}/train", f"data.val={data}/val"),
            *(f"run.output_dir={run_dir}", f"run.max_steps={steps}", "run.device=cpu"),
            # The sizes for which the losses are recorded.
            *("views.both.size_px=48", "optim.epochs=12"),
            # The final evaluation would take longer than the steps.
            *("eval.knn=false", "eval.every_epochs=null"),
        ],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        # Half a minute; without vector instructions, with others at work, twenty.
        timeout=1800,
        env=environment,
    )
    return [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def tolerances(spread: Sequence[float]) -> list[float]:
    """Return how far each step's loss may be from the recorded one, as a share of it.

    A sum in another order moves the first loss by 1e-7. Training multiplies that by about ten every one or two steps,
    up to some thousandths, which is how much the losses of such steps differ by chance. Another processor may be a
    step or two ahead of those that were measured: ten times the largest spread so far.

    Args:
        spread: The largest distance that was measured at each step.
    """
    return [10 * largest for largest in accumulate(spread, max)]


@pytest.mark.slow
@pytest.mark.parametrize("world_size", ["1", pytest.param("2", marks=pytest.mark.distributed)])
def test_quickstart_losses_are_as_recorded(world_size: str, demo_data: Path, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert len(golden["losses"][world_size]) == STEPS
    # The second epoch begins on two ranks as it does on one.
    steps = {"1": STEPS, "2": STEPS_OF_TWO}[world_size]
    recorded = golden["losses"][world_size][:steps]
    found = losses(world_size, demo_data, tmp_path / "run", steps=steps)
    within = tolerances(golden["spread"])[:steps]
    expected = [pytest.approx(loss, rel=rel) for loss, rel in zip(recorded, within, strict=True)]
    assert found == expected, f"recorded for {golden['holds_for']}"


def test_other_processors_may_be_ten_times_the_spread_away() -> None:
    assert tolerances([1e-7, 0.0, 3e-6, 1e-6]) == pytest.approx([1e-6, 1e-6, 3e-5, 3e-5])
    spread = json.loads(GOLDEN.read_text())["spread"]
    assert len(spread) == STEPS
    # A tenth of what a step's loss changes by: mistakes stay visible.
    assert tolerances(spread)[0] <= 1e-5
    assert tolerances(spread)[-1] <= 0.05
