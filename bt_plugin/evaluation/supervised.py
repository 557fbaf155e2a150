"""Train a classifier on random crops: linear on a frozen backbone, or fine-tuned together with the backbone."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from bt_plugin.checkpoints.folder import CheckpointMetadata, read_metadata, resume_from
from bt_plugin.checkpoints.state import TrainingState
from bt_plugin.checkpoints.writer import CheckpointWriter
from bt_plugin.config.evaluation_recipe import EvaluationRecipe, Finetune, Supervised
from bt_plugin.errors import DivergenceError, RecipeError
from bt_plugin.evaluation.accuracy import Accuracy
from bt_plugin.evaluation.finite import check_outputs, nonfinite_rows
from bt_plugin.runtime import collectives
from dali_pipelines.eval_loader import EvalLoader
from dali_pipelines.loaders import TwoViewLoader

logger = logging.getLogger(__name__)


class Classifier(nn.Module):
    """A backbone and one linear layer.

    The weights of the linear layer start from a normal distribution of deviation 0.01, its biases at zero.

    Args:
        backbone: Network that maps images (n, C, H, W) to features (n, feature_dim).
        feature_dim: Number of features.
        classes: Number of classes.
        frozen: Whether the backbone stays as it is, with its BatchNorm statistics.

    Source:
        facebookresearch/barlowtwins evaluate.py:81-82 at 8e8d284.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int, *, classes: int, frozen: bool) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(not frozen)
        self.head = nn.Linear(feature_dim, classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self._frozen = frozen

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images.

        Shape:
            - images: (n, C, H, W) float.
            - Output: (n, classes) float.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            features = self.backbone(images)
        logits: Tensor = self.head(features.flatten(start_dim=1))
        return logits


def train_classifier(
    accelerator: Accelerator,
    model: Classifier,
    *,
    train: TwoViewLoader,
    val: EvalLoader,
    recipe: EvaluationRecipe,
    options: Supervised,
    folder: Path,
) -> Accuracy:
    """Train the classifier, and return its accuracy after the last epoch. Call it on every rank.

    A checkpoint is written after each epoch. The same call resumes from it.

    Args:
        accelerator: Accelerator of this rank.
        model: Classifier to train.
        train: Loader of this rank's training crops, one view of each image.
        val: Loader of this rank's share of the validation images.
        recipe: Recipe of the evaluation.
        options: Section ``linear`` or ``finetune`` of the recipe.
        folder: Folder of the results. A hidden folder in it contains the checkpoints and is removed at the end.

    Raises:
        DivergenceError: If the loss, or an output for a validation image, is not finite.
        CheckpointError: If a checkpoint cannot be written or restored.
    """
    groups = [{"params": list(model.head.parameters()), "base_lr": options.lr_classifier}]
    if isinstance(options, Finetune):
        groups.append({"params": list(model.backbone.parameters()), "base_lr": options.lr_backbone})
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=options.momentum, weight_decay=options.weight_decay)
    places = _checkpoint_folder(folder, model.backbone, recipe, options)
    prepared, stepping = accelerator.prepare(model.to(memory_format=torch.channels_last), optimizer)
    state = TrainingState(accelerator, prepared, optimizer, timeout=timedelta(seconds=recipe.run.timeout_s))
    first = _resumed(state, train, places)
    writer = CheckpointWriter(state, places, keep=1)
    try:
        for epoch in range(first, options.epochs):
            for group in stepping.param_groups:
                group["lr"] = group["base_lr"] * 0.5 * (1 + math.cos(math.pi * epoch / options.epochs))
            loss = _epoch(accelerator, prepared, stepping, train, epoch, recipe.run.log_every_steps)
            logger.info("epoch %d of %d, loss %.4f", epoch + 1, options.epochs, loss)
            writer.write(CheckpointMetadata(epoch + 1, train.state_dict(), 0, accelerator.num_processes, "", {}))
        writer.settle()
    finally:
        writer.close()
    accuracy = _accuracy(prepared, val, accelerator.device, key=type(options).__name__.lower())
    if accelerator.is_main_process:
        shutil.rmtree(places)
    return accuracy


def _epoch(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: TwoViewLoader,
    epoch: int,
    log_every_steps: int,
) -> float:
    """Train for one epoch. Return the loss of the last step, averaged over ranks."""
    model.train()
    value = math.nan
    for step, (views, targets, _) in enumerate(loader):
        loss = functional.cross_entropy(model(views[0].to(accelerator.device)), targets.to(accelerator.device))
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        if step % log_every_steps == 0 or step == len(loader) - 1:
            value = sum(collectives.all_gather_objects(loss.item())) / accelerator.num_processes
            if not math.isfinite(value):
                raise DivergenceError(
                    f"epoch {epoch + 1}, step {step + 1}: the loss is {value}; use lower learning rates"
                )
            logger.info("epoch %d, step %d, loss %.4f", epoch + 1, step + 1, value)
    return value


@torch.no_grad()
def _accuracy(model: nn.Module, loader: EvalLoader, device: torch.device, *, key: str) -> Accuracy:
    """Return the accuracy on the images of all ranks."""
    model.eval()
    total, bad = Accuracy(0, 0, 0), 0
    for images, targets, _ in loader:
        logits = model(images.to(device))
        bad += nonfinite_rows(logits)
        here = Accuracy.of(logits.argsort(dim=1, descending=True).cpu(), targets)
        total = Accuracy(*(before + each for before, each in zip(total, here)))
    accuracy = total.over_ranks()
    check_outputs(sum(collectives.all_gather_objects(bad)), accuracy.n, key=key)
    return accuracy


def _checkpoint_folder(folder: Path, backbone: nn.Module, recipe: EvaluationRecipe, options: Supervised) -> Path:
    """Create and return the folder of this evaluation's checkpoints.

    Its name depends on weights, data and recipe, so that no other evaluation resumes from these checkpoints.
    """
    digest = hashlib.sha256(f"{options!r}{recipe.data.train}{recipe.view!r}{recipe.run.seed}".encode())
    for value in backbone.state_dict().values():
        digest.update(value.cpu().contiguous().numpy().data)
    places = folder / f".{type(options).__name__.lower()}-{digest.hexdigest()[:12]}"
    collectives.from_main(lambda: places.mkdir(parents=True, exist_ok=True))
    return places


def _resumed(state: TrainingState, loader: TwoViewLoader, places: Path) -> int:
    checkpoint = collectives.from_main(lambda: resume_from(places, "latest"))
    if checkpoint is None:
        return 0
    metadata = read_metadata(checkpoint)
    state.restore(checkpoint, with_random_states=metadata.world_size == collectives.world_size())
    try:
        loader.load_state_dict(metadata.loader)
    except ValueError as error:
        raise RecipeError(f"{places}: {error}, or remove this folder") from error
    logger.info("resuming from epoch %d", metadata.step)
    return metadata.step
