"""Measure the communication of a step with gloo on this machine, and model it for a cluster.

python benchmarks/scaling.py --official-sizes          model only: ResNet-50, projector 8192-8192-8192, 256 per rank
python benchmarks/scaling.py --world-sizes 1 2 4       measure on this machine, and compare with the model

The measured collectives are the all-reduce of the gradients, in DistributedDataParallel's buckets, and those of the
loss in both of its forms. The model's rates are fitted to plain all-reduces and all-gathers of two ranks. From them the
model predicts the other times. The cluster's rates are those of NVIDIA's data sheets: NVLink 4 sends 450 GB/s each way,
an NDR InfiniBand card 50 GB/s, with one card per GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.multiprocessing as mp
from network import fitted
from record import write_record
from torch import Tensor, distributed

import bt_plugin.runtime.collectives
from bt_plugin import BarlowTwins, BarlowTwinsLoss, build_backbone, build_projector
from bt_plugin.loss.cost_model import cheaper_form, loss_cost
from bt_plugin.planning.network import CARD_GB_S, LATENCY_US, Network, cluster, gathered_bytes, reduced_bytes

# The bucket size of DistributedDataParallel.
BUCKET_BYTES = 25 * 2**20
SIZES = [2**14, 2**17, 2**20, 2**22, 2**24]
# Multiply-adds per second of an H100 in float32, from NVIDIA's data sheet.
MULTIPLY_ADDS_PER_S = 33.5e12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world-sizes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--backbone", default="torchvision/resnet18")
    parser.add_argument("--projector", type=int, nargs="+", default=[2048, 2048, 2048])
    parser.add_argument("--batch-size", type=int, default=64, help="batch per rank")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--official-sizes", action="store_true", help="model a cluster instead of measuring")
    parser.add_argument("--link-gb-s", type=float, default=450, help="rate of a GPU within its node, each way, in GB/s")
    parser.add_argument(
        "--card-gb-s", type=float, default=CARD_GB_S, help="rate of a GPU to other nodes, each way, in GB/s"
    )
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--latency-us", type=float, default=LATENCY_US, help="latency of a hop, in us; an assumption")
    arguments = parser.parse_args()
    if arguments.official_sizes:
        rows, limits = modelled(arguments), where_gram_stops(arguments)
        print(write_record("scaling_model", {"rows": rows, "gram_up_to": limits}))
        return
    gradients = parameter_bytes(arguments.backbone, arguments.projector)
    measured = {
        world_size: in_ranks(world_size, arguments.batch_size, arguments.projector[-1], gradients, arguments.repeats)
        for world_size in arguments.world_sizes
    }
    # With two ranks, an all-reduce has two hops, and each rank sends as many bytes as the tensor has. A gather has one
    # hop, and each rank sends its part.
    reduce = fitted([(2, 2 * size, time_s) for size, time_s in measured[2]["all_reduce"]])
    gather = fitted([(1, 2 * part, time_s) for part, time_s in measured[2]["all_gather"]])
    for name, network in (("all-reduce", reduce), ("all-gather", gather)):
        print(
            f"{name} of two ranks: {network.latency_s * 1e6:.0f} us per hop,"
            f" {network.bytes_per_s / 1e9:.2f} GB/s for both together"
        )
    rows = beside_model(measured, reduce, gather)
    rates = {"all_reduce": reduce._asdict(), "all_gather": gather._asdict()}
    print(write_record("scaling", {"rates": rates, "rows": rows, "measured": measured}))


def parameter_bytes(backbone: str, projector: list[int]) -> int:
    module, feature_dim = build_backbone(backbone)
    model = BarlowTwins(module, build_projector(feature_dim, projector))
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def in_ranks(world_size: int, *arguments: Any) -> dict[str, Any]:
    """Measure on this number of ranks, and return what rank 0 measured."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(rank_main, (world_size, folder, arguments), nprocs=world_size)
        found: dict[str, Any] = torch.load(Path(folder) / "found.pt")
    return found


def rank_main(rank: int, world_size: int, folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    found = communication(*arguments)
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def communication(n: int, d: int, gradients: int, repeats: int) -> dict[str, Any]:
    """Measure the times and bytes of this rank: plain collectives, the gradients, and the loss in each form.

    Args:
        n: Number of samples per rank.
        d: Dimension of the embeddings.
        gradients: Bytes of all gradients.
        repeats: Number of timed repetitions.
    """
    buckets = [torch.ones(BUCKET_BYTES // 4) for _ in range(gradients // BUCKET_BYTES)]
    buckets.append(torch.ones(gradients % BUCKET_BYTES // 4))
    found: dict[str, Any] = {
        "all_reduce": [(size, median_s(partial(reduce_all, [torch.ones(size // 4)]), repeats)) for size in SIZES],
        "all_gather": [
            (size, median_s(partial(bt_plugin.runtime.collectives.all_gather, torch.ones(size // 4)), repeats))
            for size in SIZES
        ],
        "gradients": {
            "time_s": median_s(partial(reduce_all, buckets), repeats),
            "reduced": [bucket.numel() * 4 for bucket in buckets],
            "gathered": [],
        },
    }
    z_a, z_b = (torch.randn(n, d, requires_grad=True) for _ in range(2))
    for form in ("cross", "gram"):
        loss = BarlowTwinsLoss(gather_distributed=True, form=form)
        with Collectives() as seen:
            loss(z_a, z_b).backward()
        reduced, gathered = list(seen.reduced), list(seen.gathered)
        times_s = []
        for _ in range(repeats):
            with Collectives() as seen:
                loss(z_a, z_b).backward()
            times_s.append(seen.time_s)
        found[form] = {"time_s": statistics.median(times_s), "reduced": reduced, "gathered": gathered}
    return found


def reduce_all(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        bt_plugin.runtime.collectives.all_reduce_sum_(tensor)


def median_s(action: Callable[[], object], repeats: int) -> float:
    times_s = []
    for _ in range(1 + repeats):
        distributed.barrier()
        begun_s = time.perf_counter()
        action()
        times_s.append(time.perf_counter() - begun_s)
    return statistics.median(times_s[1:])


class Collectives:
    """A context that records the bytes and seconds of the package's collectives. An untimed barrier precedes each."""

    def __enter__(self) -> Collectives:
        self.reduced: list[int] = []
        self.gathered: list[int] = []
        self.time_s = 0.0
        package = bt_plugin.runtime.collectives
        self._functions = package.all_reduce_sum_, package.all_gather
        reduce, gather = self._functions
        package.all_reduce_sum_ = partial(self._timed, reduce, self.reduced)
        package.all_gather = partial(self._timed, gather, self.gathered)
        return self

    def __exit__(self, *_: object) -> None:
        bt_plugin.runtime.collectives.all_reduce_sum_, bt_plugin.runtime.collectives.all_gather = self._functions

    def _timed(self, function: Callable[[Tensor], Tensor], sizes: list[int], tensor: Tensor) -> Tensor:
        distributed.barrier()
        begun_s = time.perf_counter()
        result = function(tensor)
        self.time_s += time.perf_counter() - begun_s
        sizes.append(tensor.numel() * tensor.element_size())
        return result


def beside_model(measured: dict[int, dict[str, Any]], reduce: Network, gather: Network) -> list[dict[str, Any]]:
    rows = []
    print(f"{'W':>3} {'what':<10} {'MiB sent':>9} {'ms':>8} {'model, ms':>10} {'model/measured':>15}")
    for world_size, found in measured.items():
        for what in ("gradients", "cross", "gram"):
            reduced, gathered = found[what]["reduced"], found[what]["gathered"]
            sent = sum(reduced_bytes(size, world_size) for size in reduced)
            sent += sum(gathered_bytes(size, world_size) for size in gathered)
            model_s = sum(reduce.all_reduce_s(size, world_size) for size in reduced)
            model_s += sum(gather.all_gather_s(size, world_size) for size in gathered)
            time_s = found[what]["time_s"]
            rows.append({"world_size": world_size, "what": what, "sent": sent, "time_s": time_s, "model_s": model_s})
            ratio = f"{model_s / time_s:15.2f}" if world_size > 1 else f"{'':>15}"
            print(f"{world_size:3} {what:<10} {sent / 2**20:9.2f} {time_s * 1e3:8.2f} {model_s * 1e3:10.2f} {ratio}")
    return rows


def modelled(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the modeled times of a cluster, for the sizes of the paper."""
    n, d, gradients = 256, 8192, parameter_bytes("torchvision/resnet50", [8192] * 3)
    rows = []
    print(f"{gradients / 2**20:.0f} MiB of gradients, {n} images per rank, D = {d}; ms per step")
    print(f"{'W':>5} {'gradients':>10} {'cross':>8} {'of it sent':>11} {'gram':>8} {'of it sent':>11} {'auto':>6}")
    for world_size in [2**power for power in range(11)]:
        network = network_of(arguments, world_size)
        row: dict[str, Any] = {"world_size": world_size, "gradients_s": network.all_reduce_s(gradients, world_size)}
        for form in ("cross", "gram"):
            row |= {f"{form}_{part}": s for part, s in loss_s(form, n, d, world_size, network).items()}
        row["auto"] = cheaper_form(n, d, world_size)
        rows.append(row)
        values = (row[key] * 1e3 for key in ("gradients_s", "cross_s", "cross_sent_s", "gram_s", "gram_sent_s"))
        print("{:5} {:10.2f} {:8.2f} {:11.2f} {:8.2f} {:11.2f} {:>6}".format(world_size, *values, row["auto"]))
    return rows


def where_gram_stops(arguments: argparse.Namespace) -> list[dict[str, int]]:
    """Return the largest number of ranks for which the Gram form is faster, by the model and by form="auto"."""
    rows = []
    for d in (2048, 8192):
        for n in (32, 64, 128, 256):
            by_model = by_auto = 0
            for world_size in [2**power for power in range(11)]:
                network = network_of(arguments, world_size)
                cross_s, gram_s = (loss_s(form, n, d, world_size, network)["s"] for form in ("cross", "gram"))
                by_model = world_size if gram_s < cross_s else by_model
                by_auto = world_size if cheaper_form(n, d, world_size) == "gram" else by_auto
            rows.append({"d": d, "n": n, "by_model": by_model, "by_auto": by_auto})
            print(f"D = {d}, {n:3} images per rank: gram wins up to {by_model} ranks; auto uses it up to {by_auto}")
    return rows


def network_of(arguments: argparse.Namespace, world_size: int) -> Network:
    return cluster(
        link_gb_s=arguments.link_gb_s,
        card_gb_s=arguments.card_gb_s,
        gpus_per_node=arguments.gpus_per_node,
        latency_us=arguments.latency_us,
        world_size=world_size,
    )


def loss_s(form: Literal["cross", "gram"], n: int, d: int, world_size: int, network: Network) -> dict[str, float]:
    """Return the seconds of the loss, in total ("s") and for communication ("sent_s")."""
    cost = loss_cost(form, n=n, d=d, world_size=world_size)
    statistics_s = network.all_gather_s(4 * (1 + 4 * d), world_size)
    if form == "cross":
        sent_s = statistics_s + network.all_reduce_s(4 * d * d, world_size)
    else:
        sent_s = statistics_s + 2 * network.all_gather_s(4 * n * d, world_size)
        sent_s += network.all_reduce_s(4 * 3 * d, world_size)
    # The cost of an element of C in memory is that of bt_plugin.loss.cost_model.
    computed = cost._replace(bytes_sent=0.0).in_multiply_adds
    return {"s": computed / MULTIPLY_ADDS_PER_S + sent_s, "sent_s": sent_s}


if __name__ == "__main__":
    main()
