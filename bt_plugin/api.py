"""What the command line does, as functions. The command line calls these.

Each function imports what is slow when it is called, so that a mistake in a recipe is reported within a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bt_plugin.config.bundled_recipes import bundled_recipes
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import changes_of, load_as, load_recipe
from bt_plugin.errors import RecipeError, WeightsError
from bt_plugin.models.backbone_names import LIBRARIES, check_backbone_name
from bt_plugin.runs.new_path import check_new

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from bt_plugin.evaluation.evaluated_model import EvaluatedModel
    from bt_plugin.models.backbones import Backbone
    from bt_plugin.monitoring.callback import Callback
    from bt_plugin.runs.summary import Summary
    from bt_plugin.weights.weights import Weights
    from dali_pipelines.sources import ImageSource
    from dali_pipelines.sources.datasets import MapDataset

    RecipeLike = str | Path | Mapping[str, Any] | Recipe
    Overrides = Sequence[str] | Mapping[str, Any]
    Images = str | Path | ImageSource | MapDataset

_MOST_RANKS = 2**20


class Plan(NamedTuple):
    """A recipe that was checked, and the size of its run.

    Args:
        recipe: The recipe.
        batch_size_per_rank: Images per step on each rank.
        num_images: Number of training images.
        steps_per_epoch: Number of steps in an epoch.
        total_steps: Number of steps of the run.
    """

    recipe: Recipe
    batch_size_per_rank: int
    num_images: int
    steps_per_epoch: int
    total_steps: int


class Embeddings(NamedTuple):
    """Features of images, in the order of the source.

    Args:
        names: Names of the images.
        features: (N, F) float32.
        labels: (N,) int64, indices into classes, or -1 without labels.
        classes: Names of the classes, empty without labels.
    """

    names: list[str]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


class ExportedFile(NamedTuple):
    """A backbone that was written for another program.

    Args:
        path: File or folder.
        usage: Code with which the other program loads it.
    """

    path: Path
    usage: str


class ImportedWeights(NamedTuple):
    """Weights of another program that were imported.

    Args:
        folder: Folder with the layout of a run's export.
        weights: The weights, and what is known about them.
    """

    folder: Path
    weights: Weights


def pretrain(
    recipe: RecipeLike,
    overrides: Overrides | None = None,
    *,
    train: Images | None = None,
    val: Images | None = None,
    optimizer: Callable[[list[dict[str, Any]], Recipe], torch.optim.Optimizer] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Summary:
    """Train, export and evaluate a backbone. If the run's directory contains the same run, resume it.

    The run uses this process, and starts no other. On several ranks, call the function on each of them, for example
    with ``accelerate.notebook_launcher``. After Ctrl-C, the same call resumes from the last checkpoint.

    Args:
        recipe: Path of a recipe, name of a bundled recipe, its sections as a dictionary, or a Recipe.
        overrides: Keys to change, as a mapping such as {"optim.epochs": 5}, or as texts such as "optim.epochs=5".
        train: Training images: a path, an ImageSource, or a map-style torch Dataset (see dataset_source). Default:
            data.train of the recipe.
        val: Validation images, in the same forms. Default: data.val of the recipe.
        optimizer: Function that builds a torch optimizer from named parameter groups and the recipe. A group has the
            keys "params", "name", "base_lr", "lr" and "weight_decay". Default: the optimizer of the recipe.
        callbacks: Callbacks that are told what happens, see Callback.

    Returns:
        The summary of the run, as in RUN/summary.json.

    Raises:
        ValueError: If the user can correct something. It is one of the errors of bt_plugin.errors.
        PreemptedError: If SIGTERM or SIGUSR1 asked the run to stop. A checkpoint is written.

    Examples:
        >>> summary = bt_plugin.pretrain("quickstart", {"optim.epochs": 2, "run.output_dir": "runs/two"})
        >>> summary.knn_top1["pretrained"]
    """
    images, named = _given_images(train=train, val=val)
    checked = load_recipe(recipe, {**changes_of(overrides), **named})
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
        return train_by(checked, **images, optimizer=build, callbacks=callbacks)


def check(
    recipe: RecipeLike,
    overrides: Overrides | None = None,
    *,
    world_size: int = 1,
    num_images: int | None = None,
    train: Images | None = None,
    val: Images | None = None,
) -> Plan:
    """Look for what would stop a run, without training.

    Args:
        recipe: Recipe, as for pretrain.
        overrides: Keys to change, as for pretrain.
        world_size: Number of ranks of the planned run, 1 or more.
        num_images: Number of training images, if they are on another machine. Default: those of data.train are counted.
        train: Training images, as for pretrain.
        val: Validation images, as for pretrain.

    Raises:
        ValueError: If the run would fail. The message says what to correct.

    Examples:
        >>> bt_plugin.check("quickstart", world_size=2).batch_size_per_rank
        32
    """
    images, named = _given_images(train=train, val=val)
    checked = load_recipe(recipe, {**changes_of(overrides), **named})
    if not 1 <= world_size <= _MOST_RANKS:
        raise RecipeError(f"--world-size: {world_size} is not allowed; it must be 1 to {_MOST_RANKS}")
    if num_images is not None and num_images < 1:
        raise RecipeError(f"--num-images: {num_images} is not allowed; it must be at least 1")
    per_rank = checked.batch_size_per_rank(world_size)
    check_backbone_name(checked.model.backbone)
    if num_images is None:
        num_images = _count(checked, images)
    steps = checked.steps_per_epoch(num_images)

    from bt_plugin.models.trial_forward import check_model
    from bt_plugin.monitoring.trackers import tracker_options

    check_model(checked)
    tracker_options(checked)
    return Plan(checked, per_rank, num_images, steps, steps * checked.optim.epochs)


def evaluate(
    model: str | Path,
    method: str = "knn",
    recipe: str | Path | None = None,
    overrides: Overrides | None = None,
    *,
    train: Images | None = None,
    val: Images | None = None,
    backbone: str | None = None,
    pretrained: bool = False,
    seed: int = 0,
    prefix: str | None = None,
) -> dict[str, Any]:
    """Measure how good the features of a backbone are, and write the result to a file.

    Args:
        model: Directory of a run, a checkpoint, a file of weights, torchvision/NAME, timm/NAME, or pixels.
        method: "knn", "linear" (a linear classifier on frozen features) or "finetune" (the whole network, on a part of
            the labels).
        recipe: Path of an evaluation's recipe, or name of a bundled one. Default: the data and view of the model's run.
        overrides: Keys to change, as for pretrain.
        train: Labeled training images, as for pretrain. Default: data.train.
        val: Labeled images to classify, as for pretrain. Default: data.val.
        backbone: Architecture of the weights in a file, if the file does not tell it.
        pretrained: Whether torchvision/NAME or timm/NAME has the library's own weights. Otherwise they are random.
        seed: Seed of random weights, 0 to 2**32 - 1.
        prefix: Beginning of the network's keys, if a file has several networks.

    Returns:
        The content of the result's file, with its path as "file". Accuracies are fractions of 1: "top1" and "top5",
        each with its interval of 95 %.

    Raises:
        ValueError: If the user can correct something. It is one of the errors of bt_plugin.errors.

    Examples:
        >>> bt_plugin.evaluate("runs/quickstart", "knn")["top1"]
    """
    from bt_plugin.config.evaluation_recipe import EvaluationRecipe

    if method not in ("knn", "linear", "finetune"):
        raise RecipeError(f"method: {method!r} is not allowed; it must be knn, linear or finetune")
    images, named = _given_images(train=train, val=val)
    opened = _opened(model, backbone=backbone, pretrained=pretrained, seed=seed, prefix=prefix)
    changes = {**changes_of(overrides), **named}
    checked = load_as(EvaluationRecipe, recipe, overrides=changes, beneath=opened.defaults)

    from bt_plugin.evaluation.run import evaluate as evaluate_by
    from bt_plugin.runtime.accelerator import process_settings_restored

    with process_settings_restored():
        return evaluate_by(method, opened, checked, **images)


def embed(
    model: str | Path,
    data: Images,
    output: str | Path | None = None,
    overrides: Overrides | None = None,
    *,
    backbone: str | None = None,
    pretrained: bool = False,
    seed: int = 0,
    prefix: str | None = None,
) -> Embeddings:
    """Compute the features of images.

    Args:
        model: Model, as for evaluate.
        data: Images, as for pretrain. They need no labels.
        output: New file that ends with .npz or .parquet. Default: no file is written.
        overrides: Keys of the sections view, run and data to change, as for pretrain.
        backbone: As for evaluate.
        pretrained: As for evaluate.
        seed: As for evaluate.
        prefix: As for evaluate.

    Raises:
        ValueError: If the user can correct something. It is one of the errors of bt_plugin.errors.

    Examples:
        >>> bt_plugin.embed("runs/quickstart", "data/demo/val").features.shape
        (520, 512)
    """
    from bt_plugin.config.evaluation_recipe import EvaluationRecipe
    from bt_plugin.evaluation.embed import check_embeddings_output, write_embeddings

    file = Path(output) if output is not None else None
    if file is not None:
        check_embeddings_output(file)
    images, named = _given_images(train=data)
    opened = _opened(model, backbone=backbone, pretrained=pretrained, seed=seed, prefix=prefix)
    # The section needs both, and only one is read.
    changes = {**named, "data.val": named["data.train"], **changes_of(overrides)}
    checked = load_as(EvaluationRecipe, None, overrides=changes, beneath=opened.defaults)

    from bt_plugin.data.from_recipe import open_named
    from bt_plugin.evaluation.run import features_of
    from bt_plugin.runtime import collectives
    from bt_plugin.runtime.accelerator import process_settings_restored

    source = images["train"] or open_named("data", checked.data.train)
    with process_settings_restored():
        features = features_of(opened, checked, source)
    names = list(source.names)
    if file is not None and collectives.is_main():
        write_embeddings(file, features=features, names=names, classes=source.classes)
    return Embeddings(names, features.values.numpy(), features.targets.numpy(), source.classes)


def load_backbone(run: str | Path) -> Backbone:
    """Return the trained backbone of a run.

    Args:
        run: Directory of a run, its export folder, or a folder that import_weights wrote.

    Returns:
        The network as ``module``, in training mode on the CPU, and its number of features as ``feature_dim``.

    Raises:
        WeightsError: If there is no export, or it is damaged.

    Examples:
        >>> backbone, feature_dim = bt_plugin.load_backbone("runs/quickstart")
    """
    from bt_plugin.weights.export_folder import load_backbone as load
    from bt_plugin.weights.model_file import find_export

    return load(find_export(Path(run)))


def export(run: str | Path, to: str, output: str | Path | None = None) -> ExportedFile:
    """Write the backbone of a run for another program.

    Args:
        run: Directory of a run, its export folder, or a folder that import_weights wrote.
        to: Format: torchvision, timm, safetensors, onnx, torch-export, detectron2 or hf.
        output: New file, or new folder for hf. Default: a file in the export folder.

    Raises:
        WeightsError: If there is no export, or the format cannot hold this backbone.

    Examples:
        >>> print(bt_plugin.export("runs/quickstart", "timm").usage)
    """
    from bt_plugin.formats import convert

    return ExportedFile(*convert(run, to, output))


def import_weights(
    file: str | Path, output: str | Path | None = None, *, backbone: str | None = None, prefix: str | None = None
) -> ImportedWeights:
    """Convert weights of another program into the layout of a run's export.

    Args:
        file: Checkpoint of the official code, Lightly or solo-learn, or a state dict of torchvision or timm.
        output: New folder. Default: imported/NAME.
        backbone: torchvision/NAME or timm/NAME, if the keys do not tell it.
        prefix: Beginning of the network's keys, if a file has several networks.

    Raises:
        WeightsError: If the file cannot be read, or does not fit the backbone.
        FileError: If the folder exists or cannot be written.

    Examples:
        >>> imported = bt_plugin.import_weights("resnet50.pth")
        >>> backbone, _ = bt_plugin.load_backbone(imported.folder)
    """
    source = Path(file)
    folder = Path(output or Path("imported", source.stem))
    if backbone is not None:
        check_backbone_name(backbone, "--backbone")
    check_new(folder, "-o")

    from bt_plugin.weights.export_folder import write_imported_export
    from bt_plugin.weights.model_file import export_folder
    from bt_plugin.weights.read_weights import OWN, read_weights

    weights = read_weights(source, backbone, prefix=prefix)
    if weights.kind == OWN:
        raise WeightsError(
            f"{source} needs no import, because {export_folder(source)} already has this layout. Use that path instead"
        )
    write_imported_export(weights, folder, source)
    return ImportedWeights(folder, weights)


def list_recipes() -> dict[str, Path]:
    """Return the file of each bundled recipe by its name, such as pretrain/quickstart.

    Examples:
        >>> "pretrain/quickstart" in bt_plugin.list_recipes()
        True
    """
    return bundled_recipes()


def _given_images(**given: Images | None) -> tuple[dict[str, ImageSource | None], dict[str, str]]:
    """Open the images that are no paths.

    Args:
        given: Images by the key of section data. None: those of the recipe.

    Returns:
        The source of each key, or None, and the overrides of the recipe that name the given images.

    Raises:
        RecipeError: If a dataset cannot be used.
    """
    opened: dict[str, ImageSource | None] = {}
    named: dict[str, str] = {}
    for key, images in given.items():
        opened[key] = None
        if isinstance(images, (str, Path)):
            named[f"data.{key}"] = str(images)
        elif images is not None:
            # The begin is data.from_recipe.OF_PYTHON: no path to open.
            named[f"data.{key}"] = f"<{type(images).__name__}>"
            opened[key] = _source_of(images, key)
    return opened, named


def _source_of(images: ImageSource | MapDataset, key: str) -> ImageSource:
    from dali_pipelines.sources import ImageSource
    from dali_pipelines.sources.datasets import dataset_source

    try:
        return images if isinstance(images, ImageSource) else dataset_source(images)
    except ValueError as error:
        raise RecipeError(f"{key}: {error}") from error


def _count(recipe: Recipe, images: dict[str, ImageSource | None]) -> int:
    from bt_plugin.data.from_recipe import open_sources

    try:
        train, _ = open_sources(recipe, **images)
    except RecipeError as error:
        raise RecipeError(f"{error}, or give --num-images if the data is on another machine") from error
    return len(train)


def _opened(
    model: str | Path, *, backbone: str | None, pretrained: bool, seed: int, prefix: str | None
) -> EvaluatedModel:
    """Open the model to evaluate. A wrong name is reported before torch is imported, which takes seconds."""
    if not 0 <= seed < 2**32:
        raise RecipeError(f"--seed: {seed} is not allowed; it must be 0 to {2**32 - 1}")
    name = str(model)
    is_name = name.split("/")[0] in LIBRARIES and not Path(name).exists()
    for each, key in ((backbone, "--backbone"), (name if is_name else None, "subject")):
        if each is not None:
            check_backbone_name(each, key)

    from bt_plugin.evaluation.evaluated_model import open_model

    return open_model(name, backbone=backbone, pretrained=pretrained, seed=seed, prefix=prefix)
