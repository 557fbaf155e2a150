"""Barlow Twins as LightlyTrain's classes. Only register() may import this module, because it imports LightlyTrain."""

from __future__ import annotations

from typing import Any, Literal

from lightly_train._methods.dino import dino_transform as views
from lightly_train._methods.method import Method, TrainingStepResult
from lightly_train._methods.method_args import MethodArgs
from lightly_train._optim.optimizer_args import OptimizerArgs
from lightly_train._optim.optimizer_type import OptimizerType
from lightly_train._optim.trainable_modules import TrainableModules
from lightly_train._transforms import transform as steps
from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from bt_plugin.loss.barlow_twins import BarlowTwinsLoss
from bt_plugin.models.barlow_twins import build_projector
from bt_plugin.monitoring.collapse_warning import warn_of_lambda
from bt_plugin.optim.lars import LARS

# LightlyTrain 0.16 renamed the class of the crop's arguments.
_CropArgs: Any = getattr(steps, "RandomResizeArgs", None) or steps.RandomResizedCropArgs


class BarlowTwinsArgs(MethodArgs):
    """LightlyTrain's method_args.

    Args:
        hidden_dim: Width of the projector's inner layers.
        output_dim: Dimension D of the embeddings.
        num_layers: Number of the projector's layers.
        lambda_param: Weight of the redundancy term.

    Source:
        facebookresearch/barlowtwins main.py:28-44 at 8e8d284.
    """

    hidden_dim: int = Field(default=8192, ge=1)
    output_dim: int = Field(default=8192, ge=2)
    num_layers: int = Field(default=3, ge=1)
    lambda_param: float = Field(default=5.1e-3, gt=0)


class BarlowTwinsLARSArgs(OptimizerArgs):
    """LightlyTrain's optim_args: bt_plugin.LARS with the official code's rates, for gradients of their true size.

    Args:
        lr: Learning rate of weights at a global batch of 256. It grows in proportion to the batch.
        lr_biases: Learning rate of biases and norms at a global batch of 256. It grows in the same way.
        momentum: Momentum of the scaled updates.
        weight_decay: Weight decay of weights.
        eta: Trust coefficient of LARS.

    Source:
        facebookresearch/barlowtwins main.py:28-44 at 8e8d284, trained on 16 ranks (docs/loss.md).
    """

    lr: float = Field(default=0.2, gt=0)
    lr_biases: float = Field(default=0.0003, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1.6e-5, ge=0)
    eta: float = Field(default=0.001, gt=0)

    @staticmethod
    def type() -> OptimizerType:
        """Return the type of LightlyTrain's LARS, which this optimizer replaces."""
        return OptimizerType.LARS

    def get_optimizer(self, params: Any, lr_scale: float) -> Optimizer:
        """Return LARS over LightlyTrain's two parameter groups. The group without decay has biases and norms."""
        groups = []
        for group in params:
            is_weights = "weight_decay" not in group
            lr = self.lr if is_weights else self.lr_biases
            groups.append({**group, "lr": lr * lr_scale, "adapt": is_weights})
        return LARS(groups, self.lr * lr_scale, momentum=self.momentum, weight_decay=self.weight_decay, eta=self.eta)


class BarlowTwinsColorJitterArgs(steps.ColorJitterArgs):
    """The color jitter of both views."""

    prob: float = 0.8
    strength: float = 1.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1


class BarlowTwinsTransformArgs(views.DINOTransformArgs):
    """LightlyTrain's transform_args: those of DINO's two global views. global_view_1 is view b.

    Source:
        facebookresearch/barlowtwins main.py:258-291 at 8e8d284. DINO's blur and solarization have the same values.
    """

    random_resize: _CropArgs | None = Field(default_factory=_CropArgs)
    color_jitter: BarlowTwinsColorJitterArgs | None = Field(default_factory=BarlowTwinsColorJitterArgs)
    local_view: Literal[None] = None


class BarlowTwinsTransform(views.DINOTransform):
    """The transform to two views."""

    @staticmethod
    def transform_args_cls() -> type[BarlowTwinsTransformArgs]:
        """Return the class of transform_args."""
        return BarlowTwinsTransformArgs


class BarlowTwins(Method):
    """Barlow Twins for any model of LightlyTrain."""

    def __init__(
        self,
        method_args: BarlowTwinsArgs,
        optimizer_args: OptimizerArgs,
        embedding_model: Any,
        global_batch_size: int,
        num_input_channels: int,
    ) -> None:
        super().__init__(method_args, optimizer_args, embedding_model, global_batch_size, num_input_channels)
        self.method_args = method_args
        self.embedding_model = embedding_model
        widths = [method_args.hidden_dim] * (method_args.num_layers - 1) + [method_args.output_dim]
        self.projector = build_projector(embedding_model.embed_dim, widths)
        self.criterion = BarlowTwinsLoss(method_args.lambda_param, gather_distributed=True)
        warn_of_lambda(method_args.lambda_param, method_args.output_dim)

    def training_step_impl(self, batch: Any, batch_idx: int) -> TrainingStepResult:
        """Return the loss of the global batch. Each view is embedded separately."""
        features = [self.embedding_model(view).flatten(start_dim=1) for view in batch["views"]]
        z_a, z_b = self.projector(*features)
        terms = self.criterion.terms(z_a, z_b)
        log = {"train_loss/invariance": terms.invariance, "train_loss/redundancy": terms.redundancy}
        return TrainingStepResult(loss=terms.loss, log_dict=log)

    def trainable_modules(self) -> TrainableModules:
        """Return backbone and projector."""
        modules: list[nn.Module] = [self.embedding_model, self.projector]
        return TrainableModules(modules=modules)

    @staticmethod
    def method_args_cls() -> type[BarlowTwinsArgs]:
        """Return the class of method_args."""
        return BarlowTwinsArgs

    @staticmethod
    def optimizer_args_cls(optim_type: OptimizerType | Literal["auto"]) -> type[OptimizerArgs]:
        """Return the class of optim_args: LARS as in the paper, or another optimizer if requested."""
        if optim_type in ("auto", OptimizerType.LARS):
            return BarlowTwinsLARSArgs
        chosen: type[OptimizerArgs] = Method.optimizer_args_cls(optim_type)
        return chosen

    @staticmethod
    def transform_cls() -> type[BarlowTwinsTransform]:
        """Return the class of the transform."""
        return BarlowTwinsTransform
