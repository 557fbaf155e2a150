"""The step alone, on views that lie on the device: here, the official code's, Lightly's and solo-learn's, by turns.

python benchmarks/step.py --official PATH/barlowtwins --solo-learn PATH/solo-learn
    [--backbone torchvision/resnet18 --size-px 64 --batch-size 64 --projector 2048 2048 2048] [--bf16]
    [--variants run.compile=true "run.memory_format=contiguous run.compile=true" ...]

A variant is a change of our recipe, measured beside the others. The defaults are sizes for a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peers import LAMBDA, Step, Views, lightly, official, ours, solo_learn
from record import write_record

from bt_plugin.demo_data import write_demo_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path)
    parser.add_argument("--solo-learn", type=Path)
    parser.add_argument("--backbone", default="torchvision/resnet18")
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--projector", type=int, nargs="+", default=[2048, 2048, 2048])
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--variants", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="a round")
    arguments = parser.parse_args()
    write_demo_data("data/demo")
    with tempfile.TemporaryDirectory() as folder:
        results = measured(arguments, contenders(arguments, Path(folder)))
    for name, result in results.items():
        print(
            f"{name:<40} {result['images_per_s']:8.1f} images/s, {result['ratio']:.2f} of the time of ours"
            f" ({min(result['ratios']):.2f} to {max(result['ratios']):.2f})"
        )
    print(write_record("step", {"results": results}))


def contenders(arguments: argparse.Namespace, folder: Path) -> dict[str, tuple[Step, Views]]:
    """Who steps, and on which views: those of one draw, in the layout that each one's loader hands out."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    shape = (arguments.batch_size, 3, arguments.size_px, arguments.size_px)
    a, b = (torch.randn(shape, device=device) for _ in range(2))
    rows: Views = (a, b)
    channels_last: Views = (a.to(memory_format=torch.channels_last), b.to(memory_format=torch.channels_last))
    found: dict[str, tuple[Step, Views]] = {}
    for variant in ["", *arguments.variants]:
        name = f"ours, {variant}" if variant else "ours"
        views = rows if "memory_format=contiguous" in variant else channels_last
        found[name] = ours([*changes(arguments, folder), *variant.split()])[1], views
    model = (arguments.backbone, arguments.projector)
    if arguments.official:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=0, world_size=1)
        step = official(arguments.official, *model, arguments.batch_size, device, arguments.bf16)
        found["official"] = step, rows
    found["lightly"] = lightly(*model, device, arguments.bf16), rows
    if arguments.solo_learn:
        found["solo-learn"] = solo_learn(arguments.solo_learn, *model, device, arguments.bf16), rows
    return found


def changes(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Of the quickstart's recipe, so that its step has the others' sizes."""
    return [
        f"model.backbone={arguments.backbone}",
        f"model.projector={arguments.projector}",
        f"views.both.size_px={arguments.size_px}",
        f"loss.lambda_param={LAMBDA}",
        f"optim.global_batch_size={arguments.batch_size}",
        f"run.mixed_precision={'bf16' if arguments.bf16 else 'no'}",
        f"run.output_dir={folder}/run",
    ]


def measured(arguments: argparse.Namespace, found: dict[str, tuple[Step, Views]]) -> dict[str, dict[str, Any]]:
    """Rounds by turns, so that a machine that slows down slows all; ratios are within a round."""
    times_s: dict[str, list[float]] = {name: [] for name in found}
    for number in range(1 + arguments.rounds):
        for name, (step, views) in found.items():
            synchronize()
            begun_s = time.perf_counter()
            for _ in range(arguments.steps):
                step(views)
            synchronize()
            if number > 0:
                times_s[name].append((time.perf_counter() - begun_s) / arguments.steps)
    results = {}
    for name, times in times_s.items():
        ratios = [time_s / of_ours for time_s, of_ours in zip(times, times_s["ours"])]
        results[name] = {
            "images_per_s": arguments.batch_size / statistics.median(times),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
            "step_s": times,
        }
    return results


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
