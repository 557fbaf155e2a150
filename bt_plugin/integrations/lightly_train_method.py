"""The method in LightlyTrain's form; imports it, so only register() imports this."""

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

# The crop's own arguments changed their name with 0.16.
_CropArgs: Any = getattr(steps, "RandomResizeArgs", None) or steps.RandomResizedCropArgs


class BarlowTwinsArgs(MethodArgs):
    """method_args of LightlyTrain.

    Args:
        hidden_dim: Width of the projector's inner layers.
        output_dim: D, of the embeddings.
        num_layers: Of the projector.
        lambda_param: Weight of the redundancy-reduction term.

    Source:
        facebookresearch/barlowtwins main.py:28-44 at 8e8d284.
    """

    hidden_dim: int = Field(default=8192, ge=1)
    output_dim: int = Field(default=8192, ge=2)
    num_layers: int = Field(default=3, ge=1)
    lambda_param: float = Field(default=5.1e-3, gt=0)


class BarlowTwinsLARSArgs(OptimizerArgs):
    """optim_args of LightlyTrain: bt_plugin.LARS with the official code's rates, for gradients of their true size.

    Args:
        lr: Of weights, at a global batch of 256, by which it grows.
        lr_biases: Likewise, of biases and norms.
        momentum: Of the scaled updates.
        weight_decay: Of weights.
        eta: Trust coefficient.

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
        """That of LightlyTrain's LARS, whose place it takes."""
        return OptimizerType.LARS

    def get_optimizer(self, params: Any, lr_scale: float) -> Optimizer:
        """Over LightlyTrain's two groups, of which the one without decay is that of biases and norms."""
        groups = []
        for group in params:
            is_weights = "weight_decay" not in group
            lr = self.lr if is_weights else self.lr_biases
            groups.append({**group, "lr": lr * lr_scale, "adapt": is_weights})
        return LARS(groups, self.lr * lr_scale, momentum=self.momentum, weight_decay=self.weight_decay, eta=self.eta)


class BarlowTwinsColorJitterArgs(steps.ColorJitterArgs):
    """Of both views."""

    prob: float = 0.8
    strength: float = 1.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1


class BarlowTwinsTransformArgs(views.DINOTransformArgs):
    """transform_args of LightlyTrain: those of DINO's two global views, of which global_view_1 is view b.

    Source:
        facebookresearch/barlowtwins main.py:258-291 at 8e8d284. DINO's blur and solarization are these already.
    """

    random_resize: _CropArgs | None = Field(default_factory=_CropArgs)
    color_jitter: BarlowTwinsColorJitterArgs | None = Field(default_factory=BarlowTwinsColorJitterArgs)
    local_view: Literal[None] = None


class BarlowTwinsTransform(views.DINOTransform):
    """Two views."""

    @staticmethod
    def transform_args_cls() -> type[BarlowTwinsTransformArgs]:
        """Of transform_args."""
        return BarlowTwinsTransformArgs


class BarlowTwins(Method):
    """Barlow Twins of any model of LightlyTrain's."""

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
        """The objective over all ranks' samples, each view embedded by itself."""
        features = [self.embedding_model(view).flatten(start_dim=1) for view in batch["views"]]
        z_a, z_b = self.projector(*features)
        terms = self.criterion.terms(z_a, z_b)
        log = {"train_loss/invariance": terms.invariance, "train_loss/redundancy": terms.redundancy}
        return TrainingStepResult(loss=terms.loss, log_dict=log)

    def trainable_modules(self) -> TrainableModules:
        """Backbone and projector."""
        modules: list[nn.Module] = [self.embedding_model, self.projector]
        return TrainableModules(modules=modules)

    @staticmethod
    def method_args_cls() -> type[BarlowTwinsArgs]:
        """Of method_args."""
        return BarlowTwinsArgs

    @staticmethod
    def optimizer_args_cls(optim_type: OptimizerType | Literal["auto"]) -> type[OptimizerArgs]:
        """LARS as in the paper, or what is asked for."""
        if optim_type in ("auto", OptimizerType.LARS):
            return BarlowTwinsLARSArgs
        chosen: type[OptimizerArgs] = Method.optimizer_args_cls(optim_type)
        return chosen

    @staticmethod
    def transform_cls() -> type[BarlowTwinsTransform]:
        """Of the views."""
        return BarlowTwinsTransform
