"""Measure the resident memory of a loader over many batches, with one process per backend.

python benchmarks/memory.py --data data/demo/train --batches 2000
"""

from __future__ import annotations

import argparse
import json
from itertools import chain, islice, repeat
from pathlib import Path

from measure import in_a_process, process_bytes
from record import write_record

from dali_pipelines import PRESETS, Backend, TwoViewLoader

BACKENDS = ("native", "dali")
SAMPLED_EVERY = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/demo/train"))
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--one", choices=BACKENDS, help="measure this backend in this process, and print it as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps({"resident_mib": resident_mib(arguments)}))
        return
    results = {}
    for backend in BACKENDS:
        results[backend] = in_a_process("--one", backend)["resident_mib"]
        after_200, most = results[backend][1], max(results[backend][1:])
        print(f"{backend:>5} after 200 batches {after_200:.0f} MiB, at most {most:.0f} ({most / after_200 - 1:+.1%})")
    print(write_record("memory", {"every": SAMPLED_EVERY, "batch": arguments.batch_size, "resident_mib": results}))


def resident_mib(arguments: argparse.Namespace) -> list[float]:
    """Return the resident memory after every SAMPLED_EVERY batches, in MiB."""
    views = PRESETS["barlow_twins"].changed(size_px=32)
    loader = TwoViewLoader(
        arguments.data, arguments.batch_size, views, backend=Backend(arguments.one, device="cpu", num_threads=2)
    )
    batches = islice(chain.from_iterable(repeat(loader)), arguments.batches)
    return [process_bytes("VmRSS") / 2**20 for number, _ in enumerate(batches, start=1) if number % SAMPLED_EVERY == 0]


if __name__ == "__main__":
    main()
