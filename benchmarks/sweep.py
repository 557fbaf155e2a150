"""Measure the two-view images per second of DALI's graph, with one setting changed at a time, to find the best ones.

python benchmarks/sweep.py --data PATH                    on a GPU, with ImageNet-like images
python benchmarks/sweep.py --device cpu --seconds 2       without a GPU, to check that it runs

The first line is the default. Ratios are to the default, within a repetition. Each measurement runs in its own process.
The record is written after each measurement. A setting that fails is named, and the others are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from loader import preset_for, write_images
from measure import Deadline, MeasurementError, in_a_process
from record import Record

from dali_pipelines import Backend, Tuning, TwoViewLoader

CORES = len(os.sched_getaffinity(0))
DEFAULT: dict[str, Any] = {"num_threads": CORES, "prefetch": 2, "batch_size_per_rank": 256}
SETTINGS: dict[str, list[Any]] = {
    "augment": ["fused"],
    "num_threads": sorted({max(1, CORES // 4), max(1, CORES // 2), 2 * CORES}),
    "prefetch": [1, 4],
    "batch_size_per_rank": [64, 128, 512],
    "hw_decoder_load": [0.0, 0.12, 0.35, 0.9, 1.0],
    "decode": ["region"],
    "float16": [True],
}
TUNING = ("hw_decoder_load", "decode", "float16")
GPU_ONLY = {"augment", "hw_decoder_load"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of images; default: photographs at 500 x 375")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--batch-size", type=int, default=256, help="batch size of the default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="least duration of a measurement, in s")
    parser.add_argument("--minutes", type=float, help="stop after this time; what was measured is kept")
    parser.add_argument("--one", help="measure these settings (JSON) in this process, and print the rate as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(throughput(json.loads(arguments.one), arguments)))
        return
    default = DEFAULT | {"batch_size_per_rank": arguments.batch_size}
    changes = [{}, *({name: value} for name, values in SETTINGS.items() for value in values)]
    if arguments.device == "cpu":
        changes = [change for change in changes if not change.keys() & GPU_ONLY]
    rows: list[dict[str, Any]] = [{"changed": change, "images_per_s": [], "failed": None} for change in changes]
    record, deadline = Record(f"sweep_{arguments.device}"), Deadline(arguments.minutes)
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or write_images(None, "500x375", Path(folder))
        for row in chain.from_iterable(repeat(rows, arguments.repeats)):
            if deadline.has_passed():
                print(f"stopped after {arguments.minutes} minutes")
                break
            if row["failed"] is None:
                measure_row(row, default, data)
                record.write({"default": default, "results": rows})
    print_rows(rows, default)
    print(record.path)


def measure_row(row: dict[str, Any], default: dict[str, Any], data: Path) -> None:
    """Add a measurement of a setting, or the reason why it cannot be measured."""
    settings = json.dumps(default | row["changed"])
    try:
        row["images_per_s"].append(in_a_process("--data", str(data), "--one", settings)["images_per_s"])
    except MeasurementError as error:
        row["failed"] = str(error).strip().splitlines()[-1]


def print_rows(rows: list[dict[str, Any]], default: dict[str, Any]) -> None:
    """Print the median of each setting, and its ratio to the default within a repetition."""
    for row in rows:
        name = row["changed"] or default
        if row["failed"]:
            print(f"  failed: {row['failed']}  {name}")
        ratios = [rate / first for rate, first in zip(row["images_per_s"], rows[0]["images_per_s"])]
        if ratios:
            spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
            median = statistics.median(row["images_per_s"])
            print(f"{median:8.0f}/s x{statistics.median(ratios):.2f} ({spread})  {name}")


def throughput(settings: dict[str, Any], arguments: argparse.Namespace) -> dict[str, float]:
    """Measure the images per second after the first four batches. A batch counts when it is complete on the device."""
    tuning = Tuning(**{name: value for name, value in settings.items() if name in TUNING})
    backend = Backend(
        "dali",
        device=arguments.device,
        num_threads=settings["num_threads"],
        prefetch=settings["prefetch"],
        tuning=tuning,
        augment=settings.get("augment", "auto"),
    )
    loader = TwoViewLoader(arguments.data, settings["batch_size_per_rank"], preset_for(arguments.data), backend=backend)
    batches = chain.from_iterable(repeat(loader))
    for _ in range(4):
        next(batches)
    images, begun_s = 0, time.perf_counter()
    while time.perf_counter() - begun_s < arguments.seconds:
        views, _, filenames = next(batches)
        images += len(filenames)
        if views[0].is_cuda:
            torch.cuda.synchronize()
    return {"images_per_s": images / (time.perf_counter() - begun_s)}


if __name__ == "__main__":
    main()
