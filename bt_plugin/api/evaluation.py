"""Measure how good the features of a backbone are, and compute features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bt_plugin.api.images import given_images
from bt_plugin.config.recipe_file import changes_of, load_as
from bt_plugin.errors import RecipeError
from bt_plugin.models.backbone_names import LIBRARIES, check_backbone_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bt_plugin.api.images import Images
    from bt_plugin.evaluation.evaluated_model import EvaluatedModel
    from bt_plugin.models.own_backbone import Factory


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


def evaluate(
    model: str | Path,
    method: str = "knn",
    recipe: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    train: Images | None = None,
    val: Images | None = None,
    backbone: str | Factory | None = None,
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
        backbone: Architecture of the weights in a file, if the file does not tell it. For a run of your own network:
            its function, or the function's name as module:function.
        pretrained: Whether torchvision/NAME or timm/NAME has the library's own weights. Otherwise they are random.
        seed: Seed of random weights, 0 to 2**32 - 1.
        prefix: Beginning of the network's keys, if a file has several networks.

    Returns:
        The content of the result's file, with its path as "file". Accuracies are fractions of 1: "top1" and "top5",
        each with its interval of 95 %.

    Raises:
        ValueError: If the user can correct something. It is one of the errors of bt_plugin.errors.

    Examples:
        >>> bt_plugin.evaluate("runs/quickstart", "knn")["method"]
        'knn'
    """
    from bt_plugin.config.evaluation_recipe import EvaluationRecipe

    if method not in ("knn", "linear", "finetune"):
        raise RecipeError(f"method: {method!r} is not allowed; it must be knn, linear or finetune")
    images, named = given_images(train=train, val=val)
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
    overrides: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    backbone: str | Factory | None = None,
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
        >>> len(bt_plugin.embed("runs/quickstart", "data/demo/val").features)
        1560
    """
    from bt_plugin.config.evaluation_recipe import EvaluationRecipe
    from bt_plugin.evaluation.embed import check_embeddings_output, write_embeddings

    file = Path(output) if output is not None else None
    if file is not None:
        check_embeddings_output(file)
    images, named = given_images(train=data)
    opened = _opened(model, backbone=backbone, pretrained=pretrained, seed=seed, prefix=prefix)
    # The section needs both, and only one is read.
    changes = {**named, "data.val": named["data.train"], **changes_of(overrides)}
    checked = load_as(EvaluationRecipe, None, overrides=changes, beneath=opened.defaults)

    from bt_plugin.data.from_recipe import open_named
    from bt_plugin.evaluation.run import features_of
    from bt_plugin.runtime import collectives
    from bt_plugin.runtime.accelerator import process_settings_restored

    source = open_named("data", checked.data.train, checked.data, given=images["train"])
    with process_settings_restored():
        features = features_of(opened, checked, source)
    names = list(source.names)
    if file is not None and collectives.is_main():
        write_embeddings(file, features=features, names=names, classes=source.classes)
    return Embeddings(names, features.values.numpy(), features.targets.numpy(), source.classes)


def _opened(
    model: str | Path, *, backbone: str | Factory | None, pretrained: bool, seed: int, prefix: str | None
) -> EvaluatedModel:
    """Open the model to evaluate. A wrong name is reported before torch is imported, which takes seconds."""
    if not 0 <= seed < 2**32:
        raise RecipeError(f"--seed: {seed} is not allowed; it must be 0 to {2**32 - 1}")
    name = str(model)
    is_name = name.split("/")[0] in LIBRARIES and not Path(name).exists()
    for each, key in ((backbone, "--backbone"), (name if is_name else None, "subject")):
        if isinstance(each, str):
            check_backbone_name(each, key)

    from bt_plugin.evaluation.evaluated_model import open_model

    return open_model(name, backbone=backbone, pretrained=pretrained, seed=seed, prefix=prefix)
