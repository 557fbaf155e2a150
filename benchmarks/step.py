"""The step alone, on views that lie on the device: here, the official code's, Lightly's and solo-learn's, by turns.

python benchmarks/step.py --official PATH/barlowtwins --solo-learn PATH/solo-learn
    [--backbone torchvision/resnet18 --size-px 64 --batch-size 64 --projector 2048 2048 2048] [--bf16]
    [--variants run.compile=true "run.memory_format=contiguous run.compile=true" ...]

A variant is a change of our recipe, measured beside the others. The defaults are sizes for a CPU. Each has a process
of its own, as it has in use, and waits while another steps.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
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
        results = compared(by_turns(contenders(arguments, folder), arguments), arguments.batch_size)
    for name, result in results.items():
        print(
            f"{name:<50} {result['images_per_s']:8.1f} images/s, {result['ratio']:.2f} of the time of ours"
            f" ({min(result['ratios']):.2f} to {max(result['ratios']):.2f})"
        )
    print(write_record("step", {"results": results}))


def contenders(arguments: argparse.Namespace, folder: str) -> dict[str, Callable[[], Step]]:
    """Who steps, and how each is made."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = (arguments.backbone, arguments.projector)
    found: dict[str, Callable[[], Step]] = {}
    for variant in ["", *arguments.variants]:
        options = [*changes(arguments, folder), *variant.split()]
        found[f"ours, {variant}" if variant else "ours"] = functools.partial(our_step, options)
    if arguments.official:
        found["official"] = functools.partial(
            official, arguments.official, *model, arguments.batch_size, device, arguments.bf16
        )
    found["lightly"] = functools.partial(lightly, *model, device, arguments.bf16)
    if arguments.solo_learn:
        found["solo-learn"] = functools.partial(solo_learn, arguments.solo_learn, *model, device, arguments.bf16)
    return found


def our_step(options: list[str]) -> Step:
    return ours(options)[1]


def changes(arguments: argparse.Namespace, folder: str) -> list[str]:
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


def by_turns(makers: dict[str, Callable[[], Step]], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a step of each, round by round, so that a machine that slows down slows all."""
    context = mp.get_context("spawn")
    pipes = {}
    for name, maker in makers.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=stepping, args=(maker, name, arguments, theirs), daemon=True).start()
        pipes[name].recv()
    times_s: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(arguments.rounds):
        for name, pipe in pipes.items():
            pipe.send(arguments.steps)
            times_s[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(0)
    return times_s


def stepping(maker: Callable[[], Step], name: str, arguments: argparse.Namespace, pipe: Connection) -> None:
    """Does so many steps whenever it is told to, and says how long each took."""
    step, views = maker(), images(arguments, is_ours=name.startswith("ours") and "contiguous" not in name)
    # Buffers, algorithms, compilation.
    for _ in range(3):
        step(views)
    pipe.send("ready")
    while times := pipe.recv():
        synchronize()
        begun_s = time.perf_counter()
        for _ in range(times):
            step(views)
        synchronize()
        pipe.send((time.perf_counter() - begun_s) / times)


def images(arguments: argparse.Namespace, is_ours: bool) -> Views:
    """Two views, in the layout that each one's loader hands out."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch_size, 3, arguments.size_px, arguments.size_px)
    layout = torch.channels_last if is_ours else torch.contiguous_format
    a, b = (torch.randn(shape, generator=generator).to(device, memory_format=layout) for _ in range(2))
    return a, b


def compared(times_s: dict[str, list[float]], batch_size: int) -> dict[str, dict[str, Any]]:
    """Medians, and ratios within each round."""
    results = {}
    for name, times in times_s.items():
        ratios = [time_s / of_ours for time_s, of_ours in zip(times, times_s["ours"])]
        results[name] = {
            "images_per_s": batch_size / statistics.median(times),
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
