"""Measure the two-view images per second of DALI's graph, with one setting changed at a time, to find the best ones.

python benchmarks/sweep.py --data PATH                    on a GPU, with ImageNet-like images
python benchmarks/sweep.py --device cpu --seconds 2       without a GPU, to check that it runs

The first line is the default. Ratios are to the default, within a repetition. Each measurement runs in its own process.
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
from measure import in_a_process
from record import write_record

from dali_pipelines import Backend, Tuning, TwoViewLoader

CORES = len(os.sched_getaffinity(0))
DEFAULT: dict[str, Any] = {"num_threads": CORES, "prefetch": 2, "batch_size_per_rank": 256}
SETTINGS: dict[str, list[Any]] = {
    "num_threads": sorted({max(1, CORES // 4), max(1, CORES // 2), 2 * CORES}),
    "prefetch": [1, 4],
    "batch_size_per_rank": [64, 128, 512],
    "hw_decoder_load": [0.0, 0.12, 0.35, 0.9, 1.0],
    "decode": ["region"],
    "float16": [True],
}
TUNING = ("hw_decoder_load", "decode", "float16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of images; default: photographs at 500 x 375")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--batch-size", type=int, default=256, help="batch size of the default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="least duration of a measurement, in s")
    parser.add_argument("--one", help="measure these settings (JSON) in this process, and print the rate as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(throughput(json.loads(arguments.one), arguments)))
        return
    default = DEFAULT | {"batch_size_per_rank": arguments.batch_size}
    changes = [{}, *({name: value} for name, values in SETTINGS.items() for value in values)]
    if arguments.device == "cpu":
        changes = [change for change in changes if "hw_decoder_load" not in change]
    rates: list[list[float]] = [[] for _ in changes]
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or write_images(None, "500x375", Path(folder))
        for _ in range(arguments.repeats):
            for change, measured in zip(changes, rates):
                settings = json.dumps(default | change)
                measured.append(in_a_process("--data", str(data), "--one", settings)["images_per_s"])
    for change, measured in zip(changes, rates):
        ratios = [rate / first for rate, first in zip(measured, rates[0])]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(f"{statistics.median(measured):8.0f}/s x{statistics.median(ratios):.2f} ({spread})  {change or default}")
    results = [{"changed": change, "images_per_s": measured} for change, measured in zip(changes, rates)]
    print(write_record(f"sweep_{arguments.device}", {"default": default, "results": results}))


def throughput(settings: dict[str, Any], arguments: argparse.Namespace) -> dict[str, float]:
    """Measure the images per second after the first four batches. A batch counts when it is complete on the device."""
    tuning = Tuning(**{name: value for name, value in settings.items() if name in TUNING})
    backend = Backend(
        "dali",
        device=arguments.device,
        num_threads=settings["num_threads"],
        prefetch=settings["prefetch"],
        tuning=tuning,
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
