"""Compare the loader's speed with that of another commit, for RGB images of 8 bits on one core of a CPU.

git worktree add /tmp/before COMMIT
taskset -c 1 python benchmarks/beside_commit.py /tmp/before

Each checkout is measured in a process of its own, in turn, by the processor time that an image costs. Other programs on
the machine change it less than the time that passes. The views of both are compared too, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from record import write_record

HERE = Path(__file__).resolve().parents[1]
BATCHES, BATCH_SIZE = 6, 64
MEASURE = """
import hashlib, sys, time
from dali_pipelines import TwoViewLoader, open_source
from dali_pipelines.backend import Backend
folder, batches, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
loader = TwoViewLoader(open_source(folder), batch_size, backend=Backend("native", device="cpu", num_threads=1))
digest = hashlib.sha256()
iterator = iter(loader)
for view in next(iterator)[0]:
    digest.update(view.numpy().tobytes())
begun_s = time.process_time()
seen = sum(len(views[0]) for _, (views, _, _) in zip(range(batches), (batch for _ in range(99) for batch in loader)))
print(1e3 * (time.process_time() - begun_s) / seen, digest.hexdigest())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout of the other commit")
    parser.add_argument("--images", type=Path, default=Path("data/demo/train"))
    parser.add_argument("--pairs", type=int, default=8)
    arguments = parser.parse_args()
    cost_ms: dict[str, list[float]] = {"before": [], "now": []}
    views = set()
    for _ in range(arguments.pairs):
        for name, checkout in (("before", arguments.before), ("now", HERE)):
            milliseconds, digest = measured(checkout, arguments.images)
            cost_ms[name].append(milliseconds)
            views.add(digest)
    ratios = [before / now for before, now in zip(cost_ms["before"], cost_ms["now"])]
    ratio = statistics.median(ratios)
    equal = len(views) == 1
    print(f"speed now / before: {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f}); views are equal: {equal}")
    content = {"before": commit_of(arguments.before), "cost_ms": cost_ms, "speed_ratio": ratio}
    print(write_record("beside_commit", {**content, "views_are_equal": equal}))


def measured(checkout: Path, images: Path) -> tuple[float, str]:
    """Return the processor time of an image's two views in ms, and a hash of the first batch."""
    command = [sys.executable, "-c", MEASURE, str(images), str(BATCHES), str(BATCH_SIZE)]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    milliseconds, digest = result.stdout.split()
    return float(milliseconds), digest


def commit_of(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
