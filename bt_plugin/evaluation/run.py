"""Evaluate a model by a recipe, and write the result to a file."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bt_plugin.config.evaluation_recipe import EvaluationRecipe, Supervised
from bt_plugin.config.section import text_of
from bt_plugin.data.from_recipe import backend_of, open_pair, with_classes_of
from bt_plugin.errors import RecipeError, file_error
from bt_plugin.evaluation.evaluated_model import EvaluatedModel
from bt_plugin.evaluation.features import Features, extract_features
from bt_plugin.evaluation.knn import knn_accuracy
from bt_plugin.evaluation.linear import linear_on_features
from bt_plugin.evaluation.subsets import class_balanced, listed
from bt_plugin.evaluation.supervised import Classifier, train_classifier
from bt_plugin.runs.atomic_file import check_output, write_atomically
from bt_plugin.runs.provenance import versions
from bt_plugin.runtime import collectives
from bt_plugin.runtime.accelerator import build_accelerator
from dali_pipelines.backend import Backend
from dali_pipelines.eval_loader import EvalLoader
from dali_pipelines.loaders import TwoViewLoader
from dali_pipelines.sources import ImageSource, each_once


class Evaluation(NamedTuple):
    """An evaluation on this rank, ready to run."""

    model: EvaluatedModel
    recipe: EvaluationRecipe
    accelerator: Accelerator
    train: ImageSource
    val: ImageSource

    @property
    def backend(self) -> Backend:
        """The backend that computes the views."""
        return backend_of(self.recipe.data, self.accelerator.device)

    def shown(self, source: ImageSource) -> EvalLoader:
        """Return the loader of this rank's share of a source, resized and center-cropped."""
        return EvalLoader(source, self.recipe.run.batch_size, self.recipe.view.centre, backend=self.backend)

    def embedder(self) -> Callable[[Tensor], Tensor]:
        """Return a function that maps images to features, in the precision of the run."""
        module = self.model.backbone.to(self.accelerator.device).to(memory_format=torch.channels_last).eval()

        def embed(images: Tensor) -> Tensor:
            with self.accelerator.autocast():
                features: Tensor = module(images)
            return features

        return embed

    def features(self) -> tuple[Features, Features]:
        """Return the features of all training and of all validation images, the same on every rank."""
        backbone, device = self.embedder(), self.accelerator.device
        train, val = (
            extract_features(backbone, self.shown(source), device).to(device) for source in (self.train, self.val)
        )
        return train, val


def features_of(model: EvaluatedModel, recipe: EvaluationRecipe, source: ImageSource) -> Features:
    """Return the features of all images of a source. Call it on every rank.

    Args:
        model: Model that computes them.
        recipe: Recipe of an evaluation. Its sections view, run and data are used.
        source: Images to embed.

    Raises:
        RecipeError: If the backbone cannot embed the images.
    """
    _check_view(model, recipe)
    accelerator = build_accelerator(recipe.run)
    evaluation = Evaluation(model, recipe, accelerator, source, source)
    features = extract_features(evaluation.embedder(), evaluation.shown(source), accelerator.device)
    accelerator.end_training()
    return features


def knn(evaluation: Evaluation) -> dict[str, Any]:
    """Classify by weighted k nearest neighbors."""
    options = evaluation.recipe.knn
    return knn_accuracy(*evaluation.features(), k=options.k, temperature=options.temperature).report()


def linear(evaluation: Evaluation) -> dict[str, Any]:
    """Train a linear classifier on the frozen backbone."""
    options, seed = evaluation.recipe.linear, evaluation.recipe.run.seed
    if options.cached:
        result = linear_on_features(*evaluation.features(), options=options, seed=seed)
        return {**result.accuracy.report(), "lr": result.lr, "held_out_top1": result.chosen_by}
    return _supervised(evaluation, evaluation.train, options=options, frozen=True)


def finetune(evaluation: Evaluation) -> dict[str, Any]:
    """Fine-tune the whole network on a part of the labels."""
    options, seed = evaluation.recipe.finetune, evaluation.recipe.run.seed
    if options.subset is not None:
        train = listed(evaluation.train, options.subset)
    else:
        train = class_balanced(evaluation.train, options.fraction, seed)
    return {**_supervised(evaluation, train, options=options, frozen=False), "training_images": len(train)}


METHODS: dict[str, Callable[[Evaluation], dict[str, Any]]] = {"knn": knn, "linear": linear, "finetune": finetune}


def evaluate(
    method: str,
    model: EvaluatedModel,
    recipe: EvaluationRecipe,
    *,
    train: ImageSource | None = None,
    val: ImageSource | None = None,
) -> dict[str, Any]:
    """Evaluate a model and write the result to OUTPUT_DIR/METHOD-TIME.json. Call it on every rank.

    Args:
        method: Name of the method: knn, linear or finetune.
        model: Model to evaluate.
        recipe: Recipe of the evaluation.
        train: Training images that are already open. Default: those of data.train.
        val: Validation images that are already open. Default: those of data.val.

    Returns:
        The content of the file, and its path as "file".

    Raises:
        RecipeError: If the images have no classes, data.val has a class that data.train does not have, or the backbone
            cannot embed the images.
        FileError: If the result cannot be written.
    """
    check_output(_output_dir(model, recipe) / method, "run.output_dir")
    _check_view(model, recipe)
    train, val = _sources(recipe, train, val)
    accelerator = build_accelerator(recipe.run)
    set_seed(recipe.run.seed)
    result = METHODS[method](Evaluation(model, recipe, accelerator, train, val))
    content = {
        "method": method,
        "subject": model.name,
        **result,
        "seed": recipe.run.seed,
        "world_size": accelerator.num_processes,
        "command": shlex.join(["bt-plugin", *sys.argv[1:]]),
        "protocol": {method: getattr(recipe, method).model_dump(), "view": recipe.view.model_dump()},
        "data": {"train": recipe.data.train, "val": recipe.data.val},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    content["file"] = collectives.from_main(lambda: str(_written(content, _output_dir(model, recipe))))
    accelerator.end_training()
    return content


@torch.no_grad()
def _check_view(model: EvaluatedModel, recipe: EvaluationRecipe) -> None:
    """Raise if the backbone cannot embed two images of the view."""
    view = recipe.view
    try:
        model.backbone.eval()(torch.zeros(2, view.channels, view.size_px, view.size_px))
    except Exception as error:  # networks raise many kinds of errors
        says = str(error).strip().split("\n")[0] or type(error).__name__
        raise RecipeError(
            f"view.size_px: {model.name} cannot embed views of {view.size_px} px with {view.channels} channel(s):"
            f" {says}; use the size and channels that it was made for"
        ) from error


def _output_dir(model: EvaluatedModel, recipe: EvaluationRecipe) -> Path:
    return Path(recipe.run.output_dir) if recipe.run.output_dir else model.output_dir


def _written(content: dict[str, Any], folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(error, folder, "run.output_dir") from error
    stem = f"{content['method']}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
    path = folder / f"{stem}.json"
    number = 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.json", number + 1
    write_atomically(path, json.dumps(content, indent=2) + "\n")
    return path


def _sources(
    recipe: EvaluationRecipe, train: ImageSource | None = None, val: ImageSource | None = None
) -> tuple[ImageSource, ImageSource]:
    known, queries = open_pair(recipe.data, train=train, val=val)
    assert queries is not None, "data.val is required"
    known, queries = each_once(known), each_once(queries)
    for key, path, source in (("data.train", recipe.data.train, known), ("data.val", recipe.data.val, queries)):
        if not source.has_labels:
            raise RecipeError(
                f"{key}: the images of {text_of(path)} have no classes; use a folder that contains only subfolders, one"
                " for each class, or a list with labels"
            )
    return known, with_classes_of(known, queries, text_of(recipe.data.val))


def _check_batch_norm(backbone: nn.Module, batch_size: int, *, global_batch_size: int, images: int, ranks: int) -> None:
    """Raise if a rank has one image per step, whose variance BatchNorm cannot compute in training mode."""
    if batch_size > 1 or not any(isinstance(module, _BatchNorm) for module in backbone.modules()):
        return
    if global_batch_size <= images:
        what, remedy = f"finetune.global_batch_size={global_batch_size}", f"Use {2 * ranks} or more"
    else:
        what, remedy = f"data.train, of {images} images,", "Use a larger finetune.fraction or finetune.subset"
    fewer = ", or launch fewer ranks" if ranks > 1 else ""
    raise RecipeError(f"{what} gives each of {ranks} ranks one image per step. BatchNorm needs two. {remedy}{fewer}.")


def _supervised(evaluation: Evaluation, train: ImageSource, *, options: Supervised, frozen: bool) -> dict[str, Any]:
    model, recipe, accelerator = evaluation.model, evaluation.recipe, evaluation.accelerator
    world_size = accelerator.num_processes
    if len(train) < world_size:
        raise RecipeError(f"data.train: {len(train)} images are fewer than the {world_size} ranks; launch fewer ranks")
    batch_size, rest = divmod(min(options.global_batch_size, len(train) // world_size * world_size), world_size)
    if rest or not batch_size:
        raise RecipeError(
            f"{type(options).__name__.lower()}.global_batch_size: {options.global_batch_size} does not divide over"
            f" {world_size} ranks; use a multiple of {world_size}, or another number of ranks"
        )
    if not frozen:
        _check_batch_norm(
            model.backbone, batch_size, global_batch_size=options.global_batch_size, images=len(train), ranks=world_size
        )
    loader = TwoViewLoader(
        train,
        batch_size,
        views=recipe.view.random,
        rank=accelerator.process_index,
        world_size=world_size,
        seed=recipe.run.seed,
        # A part of the images has no groups.
        shuffle_window=None if train.groups is None else recipe.data.shuffle_window,
        max_bad_files=recipe.data.max_bad_files,
        backend=evaluation.backend,
    )
    classifier = Classifier(model.backbone, model.feature_dim, classes=len(train.classes), frozen=frozen)
    folder = _output_dir(model, recipe)
    accuracy = train_classifier(
        accelerator,
        classifier,
        train=loader,
        val=evaluation.shown(evaluation.val),
        recipe=recipe,
        options=options,
        folder=folder,
    )
    return accuracy.report()
