"""Check a GPU and take its measurements with one command, the most important first.

python benchmarks/gpu_day.py all --official PATH/barlowtwins [--data PATH] [--cifar10 PATH] [--minutes M]

- check: bt-plugin doctor, and every test that needs a GPU.
- step: the step, compared with the official code.
- loader: training, loader and step of one recipe. Then the loader's settings.
- train: the same recipe, CIFAR-10, and training from files.
- all: every part.

Each part is a process with its own limit, and the limits add up to at most --minutes. A part that fails or is stopped
is named, and the others run. The exit code is 0 if every part is done and every test passed. The record is written
after each part. Call the command from the repository's root. With --cpu it runs at small sizes without a GPU.

PATH of --cifar10 has the folders train and test, each with a folder for each class. A run of CIFAR-10 that is stopped
resumes with the next call.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gpu_day_parts import CORES, GROUPS, images, parts_of
from gpu_day_run import Outcome, Part, run_part, shares
from gpu_day_table import CHECKS, as_json, rows_of, table, test_counts
from loader import write_images
from record import Record

from bt_plugin.data.demo_data import write_demo_data

# A lent GPU has 10 minutes for a command and 30 in all. The imports before the first part take some of them.
MINUTES = dict.fromkeys(GROUPS, 9.5) | {"all": 29.0}
WORK = Path("runs/gpu_day")


def main() -> int:
    begun_s = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=(*GROUPS, "all"))
    parser.add_argument("--minutes", type=float, help="budget of all parts (default: 9.5; all: 29)")
    parser.add_argument("--cpu", action="store_true", help="small sizes on the CPU; the numbers are no result")
    parser.add_argument("--official", type=Path, help="clone of facebookresearch/barlowtwins")
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10: train/CLASS/*, test/CLASS/*")
    parser.add_argument("--data", type=Path, help="folder of images, CLASS/*.jpg; default: photographs at 500 x 375")
    parser.add_argument("--tests", type=Path, nargs="+", help="test files (default: all)")
    parser.add_argument("-o", "--output", type=Path, help="folder of the records (default: benchmarks/records)")
    arguments = parser.parse_args()
    minutes = MINUTES[arguments.group] if arguments.minutes is None else arguments.minutes
    if minutes <= 0:
        parser.error(f"--minutes: {minutes} is not allowed; it must be above 0")
    if not torch.cuda.is_available() and not arguments.cpu:
        parser.error("torch sees no GPU, and this command measures one. Give --cpu to try it at small sizes")
    for name, file in (("official", "main.py"), ("cifar10", "test"), ("data", ".")):
        given = getattr(arguments, name)
        if given and not (given / file).exists():
            parser.error(f"--{name}: {given} is not allowed, because {given / file} does not exist")
    work = WORK.with_name("gpu_day_cpu") if arguments.cpu else WORK
    parts = [part for part in parts_of(arguments, work) if arguments.group in (*part.groups, "all")]
    prepare(arguments, work, parts)
    outcomes = run_all(parts, minutes - (time.monotonic() - begun_s) / 60, arguments, work)
    return exit_code(outcomes)


def exit_code(outcomes: Mapping[str, Outcome]) -> int:
    """Return 0 if every part is done and every test that needs a GPU passed, else 1."""
    is_done = all(outcome.ended == "done" for outcome in outcomes.values())
    checks = [row for row in rows_of(outcomes, cores=CORES) if row.what in CHECKS]
    return 0 if is_done and all(row.judged() == "passed" for row in checks) else 1


def prepare(arguments: argparse.Namespace, work: Path, parts: list[Part]) -> None:
    """Write the images that the parts read, and remove what an earlier call measured."""
    (work / "logs").mkdir(parents=True, exist_ok=True)
    (work / "bench.json").unlink(missing_ok=True)
    if all(part.groups == ("check",) for part in parts):
        return
    write_demo_data("data/demo")
    photographs = images(arguments, work)
    if not arguments.data and not photographs.exists():
        photographs.mkdir()
        write_images(None, "96x96" if arguments.cpu else "500x375", photographs)


def run_all(parts: list[Part], minutes: float, arguments: argparse.Namespace, work: Path) -> dict[str, Outcome]:
    """Run the parts, print the table, and write the record after each part.

    A part that takes the rest also gets the minutes that the parts before it left over.
    """
    records = arguments.output or (work / "records" if arguments.cpu else Path(__file__).parent / "records")
    records.mkdir(parents=True, exist_ok=True)
    record = Record(f"gpu_day_{arguments.group}", records)
    environment = {**os.environ, "BENCHMARK_RECORDS": str(records.absolute())}
    if arguments.cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    limits = shares(parts, minutes)
    outcomes: dict[str, Outcome] = {}
    end_s = time.monotonic() + 60 * minutes
    for number, part in enumerate(parts):
        limit_min = limits[part.name]
        if part.takes_rest and limit_min:
            later = sum(limits[other.name] for other in parts[number + 1 :])
            limit_min = max(limit_min, min(part.most_min, (end_s - time.monotonic()) / 60 - later))
        print(f"{part.name}: at most {limit_min:.1f} minutes", flush=True)
        outcome = run_part(part, limit_min, records=records, logs=work / "logs", environment=environment)
        outcomes[part.name] = outcome
        print(f"{part.name}: {outcome.ended}, {outcome.seconds:.0f} s", flush=True)
        for row in rows_of({part.name: outcome}, cores=CORES):
            print(f"  {row.what}: {row.shown()}{f' ({row.note})' if row.note else ''}", flush=True)
        rows = rows_of(outcomes, cores=CORES)
        found = {"minutes": minutes, "is_cpu": arguments.cpu, "cores_of_loader": CORES}
        record.write({**found, "parts": [written(each) for each in outcomes.values()], "rows": as_json(rows)})
    print(f"\n{table(rows_of(outcomes, cores=CORES), outcomes, is_cpu=arguments.cpu)}\n")
    print(record.path)
    return outcomes


def written(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome for the record, without what it printed. Tests are counted."""
    counts = {"tests": test_counts(outcome.output)} if outcome.part == "gpu tests" and outcome.command else {}
    kept = {name: value for name, value in outcome._asdict().items() if name != "output"}
    return {**kept, **counts}


if __name__ == "__main__":
    sys.exit(main())
