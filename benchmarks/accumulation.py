"""Measure what saves memory: time and peak extra memory of a step by micro-batches and activation checkpointing.

python benchmarks/accumulation.py --batch 256 --steps 1 2 4 8
python benchmarks/accumulation.py --batch 256 --steps 1 --checkpointing none blocks full

Each choice is measured in its own process, one after the other, on the same views. The step is that of
bt_plugin.training.pretrain without the optimizer.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from typing import Any

import torch
from measure import in_a_process, measure
from record import write_record
from torch import Tensor

from bt_plugin import BarlowTwins, BarlowTwinsLoss, build_backbone, build_projector
from bt_plugin.loss.accumulation import accumulated_backward
from bt_plugin.models.activation_checkpointing import checkpoint_activations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--checkpointing", nargs="+", choices=["none", "blocks", "full"], default=["none"])
    parser.add_argument("--backbone", default="torchvision/resnet18")
    parser.add_argument("--projector", type=int, nargs="+", default=[2048, 2048, 2048])
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", nargs=2, help="measure this choice in this process, and print the result as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        steps, parts = arguments.one
        print(json.dumps(run(int(steps), parts, arguments)))
        return
    results = []
    print(f"{'accumulation':>12} {'checkpointing':>13} {'ms':>8} {'MiB':>6} {'time':>6} memory")
    for parts, steps in product(arguments.checkpointing, arguments.steps):
        choice = {"accumulation_steps": steps, "activation_checkpointing": parts}
        results.append({**choice, **in_a_process("--one", str(steps), parts)})
        one, whole = results[-1], results[0]
        time, memory = one["median_s"] / whole["median_s"], one["peak_mib"] / whole["peak_mib"]
        print(
            f"{steps:>12} {parts:>13} {1000 * one['median_s']:>8.0f} {one['peak_mib']:>6.0f} {time:>6.2f} {memory:.2f}",
            flush=True,
        )
    settings = {key: value for key, value in vars(arguments).items() if key != "one"}
    print(write_record("accumulation", {"settings": settings, "results": results}))


def run(steps: int, parts: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    backbone, feature_dim = build_backbone(arguments.backbone)
    model = BarlowTwins(backbone, build_projector(feature_dim, arguments.projector))
    model = model.to(device, memory_format=torch.channels_last)
    checkpoint_activations(model.backbone, parts, compiled=False)
    loss_fn = BarlowTwinsLoss()

    def step(views: list[Tensor]) -> None:
        model.zero_grad()
        if steps == 1:
            loss_fn(*model(*views)).backward()
        else:
            micro_batches = [(a, b) for a, b in zip(*(view.chunk(steps) for view in views))]
            accumulated_backward(model, loss_fn, micro_batches)

    size = arguments.size_px
    views = [torch.randn(arguments.batch, 3, size, size, device=device) for _ in range(2)]
    # This loads the libraries and allocates the parameters' gradients, so that they are not measured.
    step([view[: 2 * steps] for view in views])
    return measure(lambda: step(views), arguments.repeats)


if __name__ == "__main__":
    main()
