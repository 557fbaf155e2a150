"""A plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from bt_plugin.planning.quantity import Quantity
from bt_plugin.planning.run_plan import RunPlan

_WIDTH = 52


def plan_text(plan: RunPlan) -> str:
    """Return a plan as text. Each number says whether it is computed, measured, published or assumed."""
    return "\n".join(_lines(plan))


def _lines(plan: RunPlan) -> Iterator[str]:
    setup = plan.setup
    ranks = f"{setup['world_size']} rank(s) on {setup['nodes']} host(s)"
    checkpointing = setup["activation_checkpointing"]
    yield f"{setup['backbone']} on {setup['gpu']['name']}, {ranks}{', sharded by FSDP' if setup['sharded'] else ''}"
    yield (
        f"mixed precision {setup['mixed_precision']}, {setup['accumulation_steps']} micro-batch(es) of"
        f" {setup['micro_batch_size']} images, activation checkpointing {checkpointing}, loss {setup['loss_form']}"
    )
    yield from _section("Memory of a rank", plan.memory)
    yield (
        f"  {'fits' if plan.fits else 'DOES NOT FIT'} in {setup['gpu']['memory_gib']:g} GiB; the largest micro-batch is"
        f" {plan.largest_micro_batch} (computed)"
    )
    yield from _section("Time", [*plan.time, *plan.run])
    yield from _section("Data and disk", plan.data)
    yield ""
    yield "Other GPUs, with computed micro-batches"
    yield f"  {'GPU':<12} {'GiB':>5}  {'fits':<5} {'micro-batch':>11}  images/s"
    for card in plan.cards:
        low, high = (number(rate) for rate in card["images_per_s"])
        yield (
            f"  {card['gpu']:<12} {card['memory_gib']:>5g}  {'yes' if card['fits'] else 'no':<5}"
            f" {card['largest_micro_batch']:>11}  {low} to {high} {card['images_per_s_kind']}"
        )
    if plan.advice:
        yield ""
    for line in plan.advice:
        yield f"- {line}"


def _section(title: str, quantities: list[Quantity]) -> Iterator[str]:
    yield ""
    yield title
    for each in quantities:
        value = number(each.low) if each.low == each.high else f"{number(each.low)} to {number(each.high)}"
        yield f"  {each.name:<{_WIDTH}} {value:>14} {each.unit:<8} {each.kind}: {each.source}"


def number(value: float) -> str:
    """Return a number with three digits that carry."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
