"""Plan a run without a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bt_plugin.config.recipe_file import changes_of, load_recipe

if TYPE_CHECKING:
    from bt_plugin.config.recipe import Recipe
    from bt_plugin.models.own_backbone import Factory
    from bt_plugin.planning.run_plan import RunPlan


def plan(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    gpu: str = "h100",
    world_size: int = 1,
    nodes: int | None = None,
    fsdp: bool = False,
    num_images: int | None = None,
    backbone: Factory | None = None,
) -> RunPlan:
    """Compute the memory and the time of a run, without a GPU and without training.

    Args:
        recipe: Recipe, as for pretrain.
        overrides: Keys to change, as for pretrain.
        gpu: GPU of each rank: a name such as "h100", or its numbers "GiB,TFLOPS,GBPS": memory in GiB, peak in bf16 in
            TFLOP/s, and bandwidth of the memory in GB/s.
        world_size: Number of ranks, 1 or more, one on each GPU.
        nodes: Number of hosts. Default: as few as hold the ranks, with eight GPUs each.
        fsdp: Whether the ranks shard the weights, as recipes/accelerate/fsdp.yaml does.
        num_images: Number of images that an epoch sees, if they are on another machine.
        backbone: Function that builds the backbone, as for pretrain.

    Returns:
        The plan. Each of its numbers says whether it is computed, measured, published or assumed.

    Raises:
        ValueError: If the run cannot be planned. The message says what to correct.

    Examples:
        >>> bt_plugin.plan("quickstart", gpu="4090").fits
        True
    """
    checked = load_recipe(recipe, changes_of(overrides))

    from bt_plugin.planning.cards import find_card

    find_card(gpu)

    from bt_plugin.models.from_recipe import build_model
    from bt_plugin.planning.run_plan import plan_run

    return plan_run(
        checked,
        gpu=gpu,
        world_size=world_size,
        nodes=nodes,
        fsdp=fsdp,
        num_images=num_images,
        build=None if backbone is None else partial(build_model, checked, backbone=backbone),
    )
