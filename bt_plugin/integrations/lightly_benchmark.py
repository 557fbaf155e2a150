"""Barlow Twins as a method of Lightly's ImageNet benchmark.

Add this to benchmarks/imagenet/resnet50/main.py of lightly-ai/lightly, below its METHODS:

    from bt_plugin.integrations import lightly_benchmark
    METHODS.update(lightly_benchmark.METHODS)

To compute the views with dali_pipelines instead of PIL, also add this below its train_dataloader in pretrain():

    train_dataloader = lightly_benchmark.two_view_loader(train_dataset, batch_size_per_device)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightly.utils.benchmarking import OnlineLinearClassifier
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from bt_plugin.loss.barlow_twins import BarlowTwinsLoss
from bt_plugin.models.backbones import build_backbone
from bt_plugin.models.barlow_twins import BarlowTwins as Model
from bt_plugin.models.barlow_twins import build_projector
from bt_plugin.optim.lars import LARS
from bt_plugin.optim.parameter_groups import parameter_groups
from bt_plugin.optim.schedule import lr_scale
from dali_pipelines.loaders import TwoViewLoader
from dali_pipelines.pil.transform import BarlowTwinsTransform


class BarlowTwins(LightningModule):
    """ResNet-50 pretrained as in the paper, with an online classifier on its features.

    This method differs from Lightly's. The loss is that of the global batch. The two views pass one after the other.
    The last layer of the projector has no bias. Optimizer, learning rates and schedule are those of the official code.
    That code's gradients are a sixteenth of the true ones. So here the weight decay is sixteen times larger, and the
    rate of biases sixteen times smaller (docs/loss.md).

    Args:
        batch_size_per_device: Images per step on one rank.
        num_classes: Number of classes of the targets.
        backbone: Name of the backbone, as model.backbone of a recipe.
        backbone_args: Further arguments of the backbone, as model.args of a recipe.
        projector: Widths of the projector's layers.
        lambda_param: Weight of the redundancy term.
        lr_weights: Learning rate of weights at a global batch of 256. It grows in proportion to the batch.
        lr_biases: Learning rate of biases and BatchNorm at a global batch of 256. It grows in the same way.
        weight_decay: Weight decay of the weights.
        warmup_epochs: Epochs of warm-up. A run with no more epochs than this has a tenth of its epochs instead.

    Shape:
        - forward: images (n, 3, H, W) to features (n, F).

    Source:
        Rates and warmup: facebookresearch/barlowtwins main.py:28-44 at 8e8d284, trained on 16 ranks.
    """

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        backbone: str = "torchvision/resnet50",
        projector: Sequence[int] = (8192, 8192, 8192),
        lambda_param: float = 5.1e-3,
        lr_weights: float = 0.2,
        lr_biases: float = 0.0003,
        weight_decay: float = 1.6e-5,
        warmup_epochs: int = 10,
        backbone_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        built = build_backbone(backbone, args=backbone_args)
        self.model = Model(built.module, build_projector(built.feature_dim, projector))
        self.criterion = BarlowTwinsLoss(lambda_param, gather_distributed=True)
        # The classifier's default is the width of ResNet-50.
        self.online_classifier = OnlineLinearClassifier(built.feature_dim, num_classes, topk=_topk(num_classes))

    @property
    def backbone(self) -> nn.Module:
        """The backbone, which the benchmark evaluates."""
        return self.model.backbone

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of images."""
        features: Tensor = self.model.backbone(images)
        return features

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the sum of both losses. Method and classifier share no weights, so that the sum trains both."""
        views, targets = batch[0], batch[1].to(self.device)
        features = [self(view) for view in views]
        loss = self.criterion(*self.model.projector(*features))
        self.log("train_loss", loss, prog_bar=True, sync_dist=True, batch_size=len(targets))
        detached = torch.cat(features).detach(), targets.repeat(len(features))
        classifier_loss, log = self.online_classifier.training_step(detached, batch_idx)
        self.log_dict(log, sync_dist=True, batch_size=len(targets))
        total: Tensor = loss + classifier_loss
        return total

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Log the classifier's accuracy, and return its loss."""
        images, targets = batch[0], batch[1].to(self.device)
        loss: Tensor
        loss, log = self.online_classifier.validation_step((self(images), targets), batch_idx)
        self.log_dict(log, prog_bar=True, sync_dist=True, batch_size=len(targets))
        return loss

    def configure_optimizers(self) -> Any:
        """Return LARS and the official schedule, which changes the rates at each step."""
        chosen = self.hparams
        rate = chosen["batch_size_per_device"] * self.trainer.world_size / 256
        lr_weights = chosen["lr_weights"] * rate
        groups = parameter_groups(
            self.model,
            lr_weights=lr_weights,
            lr_biases=chosen["lr_biases"] * rate,
            weight_decay=chosen["weight_decay"],
        )
        classifier = {"params": list(self.online_classifier.parameters()), "lr": lr_weights, "adapt": False}
        optimizer = LARS([*groups, classifier], lr=lr_weights)
        total_steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs
        assert epochs, "the benchmark counts epochs"
        warmup_epochs = chosen["warmup_epochs"] if epochs > chosen["warmup_epochs"] else epochs / 10
        of_step = partial(lr_scale, total_steps=total_steps, warmup_steps=round(total_steps / epochs * warmup_epochs))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, of_step)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def two_view_loader(train_dataset: Any, batch_size_per_device: int, **options: Any) -> TwoViewLoader:
    """Return a loader of the benchmark's training images, to replace its DataLoader.

    Args:
        train_dataset: LightlyDataset of a folder with one sub-folder per class.
        batch_size_per_device: Images per step on one rank.
        options: Further arguments of TwoViewLoader.
    """
    return TwoViewLoader(Path(train_dataset.input_dir), batch_size_per_device, **options)


def _topk(num_classes: int) -> tuple[int, ...]:
    # A top-5 accuracy needs more than five classes.
    return tuple(k for k in (1, 5) if k <= num_classes)


METHODS = {"barlowtwins": {"model": BarlowTwins, "transform": BarlowTwinsTransform()}}
