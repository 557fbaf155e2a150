"""Compare the loss with other implementations: time and peak extra memory of a forward and a backward pass.

python benchmarks/loss.py                                 on the GPU if there is one
python benchmarks/loss.py --tf32 --sizes 1024x8192
python benchmarks/loss.py --autocast                      bf16 embeddings under bf16 autocast

Each measurement runs in its own process, one after the other, on the same inputs. Medians are printed, and all times
are recorded. The memory includes the gradients of the embeddings. "ours" is form="auto". "cross" and "gram" are its two
forms, recorded to check the automatic choice.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from measure import in_a_process, measure
from record import write_record
from torch import Tensor

CONTENDERS = ("ours", "lightly", "algorithm 1", "cross", "gram")
SIZES = ("64x8192", "256x8192", "1024x8192", "2048x8192", "4096x8192", "256x2048", "2048x2048")
LAMBDA = 5e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="NxD; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--tf32", action="store_true", help="TF32 matrix products")
    parser.add_argument("--autocast", action="store_true", help="bf16 autocast")
    parser.add_argument("--one", choices=CONTENDERS, help="measure this loss in this process, and print it as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        n, d = map(int, arguments.sizes[0].split("x"))
        print(json.dumps(run(arguments.one, n, d, arguments.repeats, arguments.tf32, arguments.autocast)))
        return
    contenders = [name for name in CONTENDERS if name != "lightly" or importlib.util.find_spec("lightly")]
    results = []
    print_header(contenders)
    for size in arguments.sizes:
        measured = {name: in_a_process("--one", name, "--sizes", size) for name in contenders}
        results.append({"size": size, **measured})
        print_row(size, measured)
    name = "loss" + ("_tf32" if arguments.tf32 else "") + ("_autocast" if arguments.autocast else "")
    print(write_record(name, {"repeats": arguments.repeats, "results": results}))


def run(contender: str, n: int, d: int, repeats: int, tf32: bool, autocast: bool) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    loss_fn = build(contender)

    def step(z: list[Tensor]) -> float:
        for part in z:
            part.grad = None
        with torch.autocast(device, torch.bfloat16) if autocast else nullcontext():
            loss = loss_fn(*z)
        loss.backward()
        return loss.item()

    # This loads the libraries, so that they are not measured.
    step(embeddings(8, 16, device, autocast))
    z = embeddings(n, d, device, autocast)
    return {**measure(partial(step, z), repeats), "loss": step(z)}


def build(contender: str) -> Callable[[Tensor, Tensor], Tensor]:
    if contender == "algorithm 1":
        return algorithm_1
    if contender == "lightly":
        from lightly.loss import BarlowTwinsLoss as LightlyLoss

        return LightlyLoss(LAMBDA)
    from bt_plugin import BarlowTwinsLoss

    return BarlowTwinsLoss(LAMBDA, form="auto" if contender == "ours" else contender)  # type: ignore[arg-type]


def algorithm_1(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Return the loss by the paper's pseudocode, line by line."""
    n, d = z_a.shape
    z_a_norm = (z_a - z_a.mean(0)) / z_a.std(0)
    z_b_norm = (z_b - z_b.mean(0)) / z_b.std(0)
    c = torch.mm(z_a_norm.T, z_b_norm) / n
    eye = torch.eye(d, device=c.device)
    c_diff = (c - eye).pow(2)
    return (c_diff * (eye + LAMBDA * (1 - eye))).sum()


def embeddings(n: int, d: int, device: str, autocast: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(n, d, generator=generator)
    views = [shared + 0.5 * torch.randn(n, d, generator=generator) for _ in range(2)]
    return [view.to(device, torch.bfloat16 if autocast else torch.float32).requires_grad_() for view in views]


def print_header(contenders: list[str]) -> None:
    print(f"{'N x D':>10}", *(f"{name + ' ms':>14} {'MiB':>6}" for name in contenders), f"{'times faster':>13} memory")


def print_row(size: str, measured: dict[str, dict[str, Any]]) -> None:
    ours, peer = measured["ours"], measured.get("lightly", measured["algorithm 1"])
    columns = (f"{1000 * one['median_s']:>14.1f} {one['peak_mib']:>6.0f}" for one in measured.values())
    faster, less = peer["median_s"] / ours["median_s"], peer["peak_mib"] / ours["peak_mib"]
    print(f"{size:>10}", *columns, f"{faster:>13.2f} 1/{less:.1f}", flush=True)


if __name__ == "__main__":
    main()
