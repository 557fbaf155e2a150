"""Plan a run before any GPU is rented: its memory, its time, and what it demands from loader and storage."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError
from bt_plugin.loss.cost_model import cheaper_form
from bt_plugin.models.backbone_names import check_backbone_name
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.planning.advice import advice
from bt_plugin.planning.cards import CARDS, Card, find_card
from bt_plugin.planning.demand import disk_demand, loader_demand
from bt_plugin.planning.images import images_of
from bt_plugin.planning.largest_batch import largest_micro_batch
from bt_plugin.planning.memory import Memory, step_memory
from bt_plugin.planning.quantity import Quantity, quantity
from bt_plugin.planning.step_time import step_time
from bt_plugin.planning.step_tracer import StepTracer

GPUS_PER_NODE = 8
_MOST_RANKS = 2**14


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run needs.

    Args:
        setup: The run as it was planned: card, ranks, precision, micro-batch, form of the loss.
        memory: GPU memory of a rank at the peak of a step, by part and in total.
        fits: Whether the total is less than the memory of the card.
        largest_micro_batch: Most images of one forward pass that fit.
        time: Work and time of a step, and speed.
        run: Steps, hours and GPU-hours of the run. Empty if the number of images is not known.
        data: What loader, disk and storage must deliver.
        advice: What to change if it does not fit, cheapest first, and what is not known.
        cards: The same run on all known cards: total memory that is free, largest micro-batch and speed.
    """

    setup: dict[str, Any]
    memory: list[Quantity]
    fits: bool
    largest_micro_batch: int
    time: list[Quantity]
    run: list[Quantity]
    data: list[Quantity]
    advice: list[str]
    cards: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, as `plan --json` prints it."""
        return asdict(self)


def plan_run(
    recipe: Recipe,
    *,
    gpu: str = "h100",
    world_size: int = 1,
    nodes: int | None = None,
    fsdp: bool = False,
    num_images: int | None = None,
    build: Callable[[], BarlowTwins] | None = None,
) -> RunPlan:
    """Plan a run. No GPU is needed, and no weight is initialized.

    Args:
        recipe: Recipe of the run.
        gpu: Name of the GPU of each rank, or its numbers, as for find_card.
        world_size: Number of ranks, one on each GPU.
        nodes: Number of hosts. Default: as few as hold the ranks, with eight GPUs each.
        fsdp: Whether the ranks shard the weights, as recipes/accelerate/fsdp.yaml does.
        num_images: Number of images that an epoch sees. Default: the images of data.train are counted, if they are
            here.
        build: Function that builds the model. Default: build_model of the recipe.

    Raises:
        RecipeError: If the recipe cannot be run on so many ranks, or a name or number is not allowed.
        BackboneError: If the user's function does not build a backbone.
    """
    card = find_card(gpu)
    gpus_per_node = _gpus_per_node(world_size, nodes)
    _check_fsdp(recipe, world_size=world_size, fsdp=fsdp)
    micro_batch = recipe.batch_size_per_rank(world_size) // recipe.optim.accumulation_steps
    if build is None:
        check_backbone_name(recipe.model.backbone)
    recipe = _with_precision(recipe)
    images = images_of(recipe, num_images)

    tracer = StepTracer(usable_gib=card.usable_gib, world_size=world_size, fsdp=fsdp, build=build)
    step, larger = tracer.two_sizes(recipe)
    memory = step_memory(recipe, step)
    most = partial(largest_micro_batch, recipe, step, larger)
    largest = most(usable_gib=card.usable_gib)
    timed = partial(step_time, recipe, step, world_size=world_size, gpus_per_node=gpus_per_node)
    time = timed(card)
    return RunPlan(
        setup=_setup(recipe, card, world_size=world_size, gpus_per_node=gpus_per_node, fsdp=fsdp, micro=micro_batch),
        memory=[*memory.parts, memory.total, memory.allocated],
        fits=memory.total.low <= card.usable_gib,
        largest_micro_batch=largest,
        time=list(time),
        run=_whole_run(recipe, time.images_per_s, images.number, world_size=world_size),
        data=[
            *loader_demand(recipe, time.images_per_s, image_bytes=images.mean_bytes),
            *disk_demand(recipe, step),
        ],
        advice=[
            *advice(recipe, memory, tracer, most=largest),
            *images.notes,
            *(
                ["The step was planned without run.compile, which needs less time and memory."]
                if recipe.run.compile
                else []
            ),
        ],
        cards=[
            _on_card(each, memory, timed(each).images_per_s, most(usable_gib=each.usable_gib))
            for each in CARDS.values()
        ],
    )


def _gpus_per_node(world_size: int, nodes: int | None) -> int:
    if not 1 <= world_size <= _MOST_RANKS:
        raise RecipeError(f"--world-size: {world_size} is not allowed; it must be 1 to {_MOST_RANKS}")
    if nodes is None:
        return GPUS_PER_NODE
    if nodes < 1 or world_size % nodes:
        raise RecipeError(
            f"--nodes: {nodes} is not allowed with --world-size {world_size}; it must be at least 1 and divide the"
            " ranks, because every host has the same number of GPUs"
        )
    return world_size // nodes


def _check_fsdp(recipe: Recipe, *, world_size: int, fsdp: bool) -> None:
    if not fsdp:
        return
    if world_size == 1:
        raise RecipeError("--fsdp: is not allowed with --world-size 1; use more ranks, over which weights are sharded")
    if recipe.run.mixed_precision == "fp16":
        raise RecipeError("run.mixed_precision: fp16 is not allowed with FSDP. Set it to bf16 or no")


def _with_precision(recipe: Recipe) -> Recipe:
    """Return the recipe with the precision that `auto` stands for here."""
    if recipe.run.mixed_precision != "auto":
        return recipe
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    run = recipe.run.model_copy(update={"mixed_precision": precision})
    return recipe.model_copy(update={"run": run})


def _setup(
    recipe: Recipe, card: Card, *, world_size: int, gpus_per_node: int, fsdp: bool, micro: int
) -> dict[str, Any]:
    n, d = micro * recipe.optim.accumulation_steps, recipe.model.projector[-1]
    auto = recipe.loss.form == "auto"
    return {
        "backbone": recipe.model.backbone,
        "gpu": card._asdict(),
        "world_size": world_size,
        "nodes": -(-world_size // gpus_per_node),
        "sharded": fsdp,
        "mixed_precision": recipe.run.mixed_precision,
        "global_batch_size": recipe.optim.global_batch_size,
        "micro_batch_size": micro,
        "accumulation_steps": recipe.optim.accumulation_steps,
        "activation_checkpointing": recipe.model.activation_checkpointing,
        "loss_form": cheaper_form(n, d, world_size) if auto else recipe.loss.form,
    }


def _whole_run(recipe: Recipe, images_per_s: Quantity, num_images: int | None, *, world_size: int) -> list[Quantity]:
    if num_images is None:
        return []
    steps = recipe.steps_per_epoch(num_images) * recipe.optim.epochs
    images = steps * recipe.optim.global_batch_size
    fast_h, slow_h = images / images_per_s.high / 3600, images / images_per_s.low / 3600
    source = "the steps, at the speed above, without evaluations"
    return [
        quantity("steps of the run", steps, "", kind="computed", source=f"{num_images} images an epoch"),
        quantity("the run", fast_h, "h", high=slow_h, kind=images_per_s.kind, source=source),
        quantity(
            "the run", fast_h * world_size, "GPU-h", high=slow_h * world_size, kind=images_per_s.kind, source=source
        ),
    ]


def _on_card(card: Card, memory: Memory, images_per_s: Quantity, most: int) -> dict[str, Any]:
    return {
        "gpu": card.name,
        "memory_gib": card.memory_gib,
        "fits": memory.total.low <= card.usable_gib,
        "largest_micro_batch": most,
        "images_per_s": [images_per_s.low, images_per_s.high],
        "memory_kind": memory.total.kind,
        "images_per_s_kind": images_per_s.kind,
        "images_per_s_source": images_per_s.source,
    }
