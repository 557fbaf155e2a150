"""Compare the time of a training step without the loader: ours, the official code's, Lightly's and solo-learn's.

python benchmarks/step.py --official PATH/barlowtwins --solo-learn PATH/solo-learn
    [--backbone torchvision/resnet18 --size-px 64 --batch-size 64 --projector 2048 2048 2048] [--bf16]
    [--variants run.compile=true "run.memory_format=contiguous run.compile=true" ...]

The views are already on the device, and the contenders alternate. A variant is a change of our recipe, measured as one
more contender. The defaults are sizes for a CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial

import torch
from peers import Step, Views, add_arguments, lightly, official, options, ours, solo_learn
from record import Record
from turns import Action, by_turns, compared, ratios_to_ours

from bt_plugin.data.demo_data import write_demo_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--minutes", type=float, help="stop after this time; what was measured is kept")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps per round")
    arguments = parser.parse_args()
    write_demo_data("data/demo")
    record = Record("step")
    with tempfile.TemporaryDirectory() as folder:
        times_s = by_turns(
            contenders(arguments, folder),
            arguments.rounds,
            arguments.steps,
            ahead=0,
            minutes=arguments.minutes,
            on_round=lambda times_s: record.write({"results": ratios_to_ours(times_s, arguments.batch_size)}),
        )
    compared(times_s, arguments.batch_size)
    print(record.path)


def contenders(arguments: argparse.Namespace, folder: str) -> dict[str, Callable[[], Action]]:
    """Return the contenders by name, each as a function that builds its step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = (arguments.backbone, arguments.projector)
    rows = images(arguments, torch.contiguous_format)
    found: dict[str, Callable[[], Action]] = {}
    for variant in ["", *arguments.variants]:
        views = rows if "memory_format=contiguous" in variant else images(arguments, torch.channels_last)
        step = partial(our_step, [*options(arguments, folder), *variant.split()])
        found[f"ours, {variant}" if variant else "ours"] = partial(fixed, step, views, device)
    if arguments.official:
        step = partial(official, arguments.official, *model, arguments.batch_size, device, arguments.bf16)
        found["official"] = partial(fixed, step, rows, device)
    found["lightly"] = partial(fixed, partial(lightly, *model, device, arguments.bf16), rows, device)
    if arguments.solo_learn:
        step = partial(solo_learn, arguments.solo_learn, *model, device, arguments.bf16)
        found["solo-learn"] = partial(fixed, step, rows, device)
    return found


def images(arguments: argparse.Namespace, memory_format: torch.memory_format) -> Views:
    """Return two views in the memory format of a contender's loader."""
    shape = (arguments.batch_size, 3, arguments.size_px, arguments.size_px)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator).contiguous(memory_format=memory_format) for _ in range(2))
    return a, b


def our_step(changes: list[str]) -> Step:
    return ours(changes)[1]


def fixed(maker: Callable[[], Step], views: Views, device: torch.device) -> Action:
    """Return a step that uses the same views every time."""
    step, (a, b) = maker(), views
    on_device = a.to(device), b.to(device)
    return lambda: step(on_device)


if __name__ == "__main__":
    main()
