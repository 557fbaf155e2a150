"""Pretrain a backbone, and check its recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bt_plugin.api.images import given_images
from bt_plugin.config.bundled_recipes import bundled_recipes
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import changes_of, load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.models.backbone_names import check_backbone_name

if TYPE_CHECKING:
    import torch

    from bt_plugin.api.images import Images
    from bt_plugin.models.own_backbone import Factory
    from bt_plugin.monitoring.callback import Callback
    from bt_plugin.runs.summary import Summary
    from dali_pipelines.sources import ImageSource

_MOST_RANKS = 2**20


class Plan(NamedTuple):
    """A recipe that was checked, and the size of its run.

    Args:
        recipe: The recipe.
        batch_size_per_rank: Images per step on each rank.
        num_images: Number of images that an epoch sees: all training images, if they have no weights.
        steps_per_epoch: Number of steps in an epoch.
        total_steps: Number of steps of the run.
        pixels: Depth, channels and value range of the images. None if they have 8 bits and three channels, or were not
            opened.
    """

    recipe: Recipe
    batch_size_per_rank: int
    num_images: int
    steps_per_epoch: int
    total_steps: int
    pixels: str | None = None


def pretrain(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    backbone: Factory | None = None,
    train: Images | None = None,
    val: Images | None = None,
    optimizer: Callable[[list[dict[str, Any]], Recipe], torch.optim.Optimizer] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Summary:
    """Train, export and evaluate a backbone. If the run's directory contains the same run, resume it.

    The run uses this process, and starts no other. On several ranks, call the function once on each of them, for
    example with ``accelerate.notebook_launcher``. After Ctrl-C, the same call resumes from the last checkpoint.

    Args:
        recipe: Path of a recipe, name of a bundled recipe, its sections as a dictionary, or a Recipe.
        overrides: Keys to change, as a mapping such as {"optim.epochs": 5}, or as texts such as "optim.epochs=5".
        backbone: Function that builds a new network at each call, because the untrained baseline, the evaluations and
            the export need networks of their own. The network maps images (N, C, H, W) to features (N, F) or
            (N, F, h, w). Default: model.backbone of the recipe.
        train: Training images: a path, an ImageSource, a list of these, or a map-style torch Dataset (see
            dataset_source). Default: data.train of the recipe.
        val: Validation images, in the same forms. Default: data.val of the recipe.
        optimizer: Function that builds a torch optimizer from parameter groups and the recipe. A group has the keys
            "params", "base_lr", "lr" and "weight_decay", and a "name" if its rate is logged. Default: the optimizer of
            the recipe.
        callbacks: Callbacks that receive what happens, see Callback.

    Returns:
        The summary of the run, as in RUN/summary.json.

    Raises:
        ValueError: If the user can correct something. It is one of the errors of bt_plugin.errors.
        PreemptedError: If SIGTERM or SIGUSR1 asked the run to stop. A checkpoint is written.
        StorageError: If the storage of the images does not answer. A checkpoint is written.

    Examples:
        >>> trial = {"run.max_steps": 2, "eval.knn": False, "eval.every_epochs": None, "run.output_dir": "runs/trial"}
        >>> bt_plugin.pretrain("quickstart", trial).step
        2
    """
    images, named = given_images(train=train, val=val)
    checked = load_recipe(recipe, {**changes_of(overrides), **named})
    if backbone is None:
        check_backbone_name(checked.model.backbone)

    from bt_plugin.monitoring.callback import Callbacks
    from bt_plugin.optim.from_recipe import build_groups, build_optimizer
    from bt_plugin.runtime.accelerator import process_settings_restored
    from bt_plugin.training.pretrain import pretrain as train_by

    Callbacks(callbacks)  # checks them before any time is spent
    build = build_optimizer
    if optimizer is not None:
        given = optimizer

        def build(optim: Any, model: torch.nn.Module) -> torch.optim.Optimizer:
            return given(build_groups(optim, model), checked)

    with process_settings_restored():
        return train_by(
            checked,
            backbone=backbone,
            train=images["train"],
            val=images["val"],
            optimizer=build,
            callbacks=callbacks,
        )


def check(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    world_size: int = 1,
    num_images: int | None = None,
    backbone: Factory | None = None,
    train: Images | None = None,
    val: Images | None = None,
) -> Plan:
    """Look for what would stop a run, without training.

    Args:
        recipe: Recipe, as for pretrain.
        overrides: Keys to change, as for pretrain.
        world_size: Number of ranks of the planned run, 1 or more.
        num_images: Number of images that an epoch sees, if they are on another machine. Default: the images of
            data.train are counted, each as often as data.weights says.
        backbone: Function that builds the backbone, as for pretrain.
        train: Training images, as for pretrain.
        val: Validation images, as for pretrain.

    Raises:
        ValueError: If the run would fail. The message says what to correct.

    Examples:
        >>> bt_plugin.check("quickstart", world_size=2).batch_size_per_rank
        64
    """
    images, named = given_images(train=train, val=val)
    checked = load_recipe(recipe, {**changes_of(overrides), **named})
    if not 1 <= world_size <= _MOST_RANKS:
        raise RecipeError(f"--world-size: {world_size} is not allowed; it must be 1 to {_MOST_RANKS}")
    if num_images is not None and num_images < 1:
        raise RecipeError(f"--num-images: {num_images} is not allowed; it must be at least 1")
    per_rank = checked.batch_size_per_rank(world_size)
    if backbone is None:
        check_backbone_name(checked.model.backbone)
    pixels = None
    if num_images is None:
        checked, num_images, pixels = _opened(checked, images)
    steps = checked.steps_per_epoch(num_images)

    from bt_plugin.models.from_recipe import build_model
    from bt_plugin.models.trial_forward import check_model
    from bt_plugin.monitoring.trackers import tracker_options

    check_model(checked, partial(build_model, checked, backbone=backbone))
    tracker_options(checked)
    return Plan(checked, per_rank, num_images, steps, steps * checked.optim.epochs, pixels)


def list_recipes() -> dict[str, Path]:
    """Return the file of each bundled recipe by its name, such as pretrain/quickstart.

    Examples:
        >>> "pretrain/quickstart" in bt_plugin.list_recipes()
        True
    """
    return bundled_recipes()


def _opened(recipe: Recipe, images: dict[str, ImageSource | None]) -> tuple[Recipe, int, str | None]:
    """Open the images. Return the recipe with their value range, how many an epoch sees, and what their pixels are."""
    from bt_plugin.data.from_recipe import open_sources
    from bt_plugin.data.value_range import keep_range, said_of

    try:
        train, _ = open_sources(recipe, **images)
    except RecipeError as error:
        raise RecipeError(f"{error}, or give --num-images if the data is on another machine") from error
    return keep_range(recipe, train), train.epoch_length, said_of(train)
