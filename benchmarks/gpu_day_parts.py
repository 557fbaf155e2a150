"""The parts of gpu_day.py: their commands, at the sizes of a GPU and at small sizes for a trial on a CPU."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from gpu_day_run import Part

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
GROUPS = ("check", "step", "loader", "train")
CORES = min(16, len(os.sched_getaffinity(0)))
BT_PLUGIN = [sys.executable, "-m", "bt_plugin"]

# The sizes of the paper, on one GPU.
_LARGE = ["--backbone", "torchvision/resnet50", "--size-px", "224", "--batch-size", "256"]
_LARGE += ["--projector", "8192", "8192", "8192", "--bf16"]
_SMALL = ["--backbone", "torchvision/shufflenet_v2_x0_5", "--size-px", "32", "--batch-size", "4"]
_SMALL += ["--projector", "16", "16", "--rounds", "1", "--steps", "1"]
_SMALL_RECIPE = ["views.both.size_px=32", "model.backbone=torchvision/shufflenet_v2_x0_5", "model.projector=[16,16]"]
_SMALL_RECIPE += ["optim.global_batch_size=8", "run.mixed_precision=no", "run.device=cpu", "data.num_threads=1"]


def parts_of(arguments: argparse.Namespace, work: Path) -> list[Part]:
    """Return all parts, the most important first.

    Args:
        arguments: Arguments of gpu_day.py.
        work: Folder for images, logs and runs.
    """
    return [
        Part("doctor", ("check",), 0.25, 1, lambda limit_s: [*BT_PLUGIN, "doctor"]),
        Part("gpu tests", ("check",), 1, 8, lambda limit_s: _tests(arguments)),
        _step(arguments),
        _bench(arguments, work),
        _cifar10(arguments, work),
        _sweep(arguments, work),
        _files(arguments, work),
    ]


def _tests(arguments: argparse.Namespace) -> list[str]:
    # With xdist the other tests run even if one ends the process, for example by SIGSEGV.
    workers = ["-n", str(max(1, min(4, CORES // 2))), "--dist", "worksteal"] if find_spec("xdist") else []
    options = ["-m", "gpu", "-v", "-rs", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", *options, *workers, *map(str, arguments.tests or [TESTS])]


def _step(arguments: argparse.Namespace) -> Part:
    sizes = _SMALL if arguments.cpu else _LARGE
    official = ["--official", str(arguments.official)] if arguments.official else []

    def command(limit_s: float) -> list[str]:
        # Rounds stop before the limit, and a round takes less than a minute.
        return [sys.executable, str(HERE / "step.py"), *official, *sizes, "--minutes", f"{(limit_s - 60) / 60:.2f}"]

    return Part("step", ("step",), 3, 8, command)


def _bench(arguments: argparse.Namespace, work: Path) -> Part:
    output = work / "bench.json"
    recipe = "quickstart" if arguments.cpu else "imagenet_resnet50_100ep"
    sizes = ["optim.global_batch_size=256", "run.device=gpu", f"data.num_threads={CORES}"]
    changes = [f"data.train={images(arguments, work)}", "data.val=null", "eval.every_epochs=null"]
    changes += [f"run.output_dir={work}/none", *(_SMALL_RECIPE if arguments.cpu else sizes)]

    def command(limit_s: float) -> list[str]:
        # The rest is for the imports, for the first steps and for the count of operations.
        seconds = 3 if arguments.cpu else max(60, limit_s - 90)
        return [*BT_PLUGIN, "bench", recipe, "--seconds", f"{seconds:.0f}", "-o", str(output), *changes]

    return Part("bench", ("loader", "train"), 2.5, 3.5, command, output=output)


def _cifar10(arguments: argparse.Namespace, work: Path) -> Part:
    """Return the part that trains on CIFAR-10. It resumes the run of an earlier call, so it may take several calls."""
    run_dir = work / "cifar10"
    data = arguments.cifar10
    changes = [f"data.train={data}/train", f"data.val={data}/test", "run.device=gpu", f"data.num_threads={CORES}"]
    if arguments.cpu:
        data = Path("data/demo")
        changes = [f"data.train={data}/train", f"data.val={data}/val", "run.max_steps=2", *_SMALL_RECIPE]
        changes += ["model.stem=standard"]
    command = [*BT_PLUGIN, "pretrain", "cifar10_resnet18", f"run.output_dir={run_dir}", *changes]
    missing = "" if data else "give the images with --cifar10"
    most_min = 1.0 if arguments.cpu else 600.0
    return Part(
        "CIFAR-10",
        ("train",),
        1,
        6,
        lambda limit_s: command,
        missing,
        takes_rest=True,
        most_min=most_min,
        output=run_dir / "summary.json",
    )


def _sweep(arguments: argparse.Namespace, work: Path) -> Part:
    device = "cpu" if arguments.cpu else "gpu"
    sizes = ["--seconds", "0.2", "--repeats", "1", "--batch-size", "8"] if arguments.cpu else ["--seconds", "3"]
    data = ["--data", str(images(arguments, work))]

    def command(limit_s: float) -> list[str]:
        minutes = 0.01 if arguments.cpu else (limit_s - 40) / 60
        return [
            sys.executable,
            str(HERE / "sweep.py"),
            "--device",
            device,
            *data,
            *sizes,
            "--minutes",
            f"{minutes:.2f}",
        ]

    return Part("sweep", ("loader",), 2, 6, command)


def _files(arguments: argparse.Namespace, work: Path) -> Part:
    sizes = _SMALL if arguments.cpu else _LARGE
    official = ["--official", str(arguments.official)] if arguments.official else []
    data = ["--data", str(images(arguments, work))]

    def command(limit_s: float) -> list[str]:
        minutes = f"{(limit_s - 60) / 60:.2f}"
        return [sys.executable, str(HERE / "train.py"), *official, *data, *sizes, "--minutes", minutes]

    # One round of the official code takes a minute: its loader is slow, and its prefetched batches are used up first.
    return Part("files", ("train",), 2, 3, command)


def images(arguments: argparse.Namespace, work: Path) -> Path:
    """Return the folder of images for the loader, CLASS/*.jpg."""
    return arguments.data or work / "photographs"
