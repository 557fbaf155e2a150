"""How long a step takes on a card, and what its ranks send."""

from __future__ import annotations

from typing import NamedTuple

from bt_plugin.config.recipe import Recipe
from bt_plugin.planning.cards import Card
from bt_plugin.planning.network import Network, cluster
from bt_plugin.planning.quantity import Quantity, quantity
from bt_plugin.planning.step_meter import Collective, Operation
from bt_plugin.planning.traced_step import TracedStep

# Shares of the roofline that published trainings reach: benchmarks/plan.py compares 10 of them.
ROOFLINE_SHARES = (0.38, 0.84)
RECORD = "2026-11-29_plan.json"
_SHARES_SOURCE = f"the roofline of the card, of which published trainings reach 38 to 84 % ({RECORD})"
# Time in which the host starts an operation, at least and at most. Short operations wait for it. No measurement.
_LAUNCH_US = (4.0, 10.0)
_STARTS = "the host, which starts an operation in 4 to 10 us; larger micro-batches, or run.compile, keep the GPU busy"


class StepTime(NamedTuple):
    """The time of a step.

    Args:
        flops_per_image: GFLOP of an image: forward and backward passes of both views, loss included.
        roofline: Shortest time of the step's computation, in s.
        sent: What a rank sends in a step, in GB.
        communication: Time of the step's collectives, in s.
        step: Time of the step, in s.
        images_per_s: Images per second over all ranks.
        utilization: Operations that are done, of the card's peak in bf16, in %. Second forward passes count.
    """

    flops_per_image: Quantity
    roofline: Quantity
    sent: Quantity
    communication: Quantity
    step: Quantity
    images_per_s: Quantity
    utilization: Quantity


def step_time(recipe: Recipe, traced: TracedStep, card: Card, *, world_size: int, gpus_per_node: int) -> StepTime:
    """Return the time of a step.

    Args:
        recipe: Recipe of the run.
        traced: Its traced step, with the recipe's micro-batch and world size.
        card: The GPU of each rank.
        world_size: Number of ranks.
        gpus_per_node: GPUs of a host.
    """
    repeats = recipe.optim.accumulation_steps / traced.micro_batches
    n = traced.micro_batch_size * recipe.optim.accumulation_steps
    flops = repeats * sum(operation.flops for operation in traced.operations)
    roofline_s = repeats * sum(roofline_seconds(operation, card) for operation in traced.operations)
    launch_s = [repeats * len(traced.operations) * each * 1e-6 for each in _LAUNCH_US]
    network = cluster(link_gb_s=card.link_gb_s, gpus_per_node=gpus_per_node, world_size=world_size)
    waited_s = repeats * sum(_seconds(each, network, world_size) for each in traced.collectives if each.waits)
    beside_s = sum(_seconds(each, network, world_size) for each in traced.collectives if not each.waits)
    low_share, high_share = ROOFLINE_SHARES
    fast_s = max(roofline_s / high_share, launch_s[0], beside_s) + waited_s
    slow_s = max(roofline_s / low_share, launch_s[1]) + waited_s + beside_s
    images = n * world_size
    sent = sum((repeats if each.waits else 1) * _sent(each, world_size) for each in traced.collectives)
    peak_flops = card.low_tflops * 1e12
    ring = "the traced collectives, by ring algorithms"
    hops = f"at {network.bytes_per_s / 1e9:.0f} GB/s each way and {network.latency_s * 1e6:.0f} us a hop (data sheets)"
    is_launching = launch_s[1] > roofline_s / low_share
    known = {"kind": "assumed" if is_launching else "published", "source": _STARTS if is_launching else _SHARES_SOURCE}
    return StepTime(
        flops_per_image=quantity(
            "work of an image", flops / n / 1e9, "GFLOP", kind="computed", source="the traced step, by torch's formulas"
        ),
        roofline=quantity(
            "shortest computation of a step", roofline_s, "s", kind="computed", source=f"peak rates: {card.source}"
        ),
        sent=quantity("sent by a rank in a step", sent / 1e9, "GB", kind="computed", source=ring),
        communication=quantity(
            "collectives of a step", waited_s, "s", high=waited_s + beside_s, kind="assumed", source=f"{ring}, {hops}"
        ),
        step=quantity("a step", fast_s, "s", high=slow_s, **known),  # type: ignore[arg-type]
        images_per_s=quantity("speed", images / slow_s, "images/s", high=images / fast_s, **known),  # type: ignore[arg-type]
        utilization=quantity(
            "arithmetic, of the peak in bf16",
            100 * flops / slow_s / peak_flops,
            "%",
            high=100 * flops / fast_s / peak_flops,
            **known,  # type: ignore[arg-type]
        ),
    )


def roofline_seconds(operation: Operation, card: Card) -> float:
    """Return the shortest time of an operation: that of its products, or of its memory traffic.

    torch lets cuDNN's convolutions use TF32, and matrix products of float32 not.
    """
    tflops = {"low": card.low_tflops, "convolution": card.tf32_tflops, "matmul": card.float32_tflops}[operation.kind]
    return max(operation.flops / (tflops * 1e12), operation.moved_bytes / (card.memory_gb_s * 1e9))


def _seconds(collective: Collective, network: Network, world_size: int) -> float:
    if world_size == 1:
        return 0.0
    if collective.name == "all_gather":
        return network.all_gather_s(collective.size_bytes, world_size)
    if collective.name == "reduce_scatter":
        return network.reduce_scatter_s(collective.size_bytes, world_size)
    return network.all_reduce_s(collective.size_bytes, world_size)


def _sent(collective: Collective, world_size: int) -> float:
    """Return the bytes that a rank sends."""
    free = Network(latency_s=0.0, bytes_per_s=1.0)
    return _seconds(collective, free, world_size)
