"""Train a linear classifier during pretraining, without any effect on the pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bt_plugin.config.recipe import Recipe
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.runtime import collectives
from dali_pipelines.sources import ImageSource


class OnlineProbe:
    """Lightly's OnlineLinearClassifier on the features of the training views. No gradient reaches the backbone.

    Args:
        backbone: Backbone in training. A hook keeps its outputs, which are the inputs of the probe.
        feature_dim: Number of features of the backbone.
        classes: Number of classes.
        device: Device of the backbone.
        lr: Learning rate of SGD without momentum, 0 or more.
        seed: Seed of the initial weights.
    """

    def __init__(
        self, backbone: nn.Module, feature_dim: int, *, classes: int, device: torch.device, lr: float, seed: int
    ) -> None:
        from lightly.utils.benchmarking import OnlineLinearClassifier

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classifier = OnlineLinearClassifier(feature_dim, classes, topk=(1,)).to(device)
        self._optimizer = torch.optim.SGD(self.classifier.parameters(), lr=lr, fused=True)
        self._features: list[Tensor] = []
        backbone.register_forward_hook(self._note)

    def step(self, targets: Sequence[Tensor], found_inf: Tensor) -> None:
        """Update the probe with the features of this step. Call it on every rank.

        Args:
            targets: Labels of each micro-batch, (n,) int64. The two views of a micro-batch passed one after the other.
            found_inf: Scalar float32 on the device. If it is 1, the features are not finite and nothing is updated.
        """
        features, self._features = self._features, []
        labels = torch.cat([each for target in targets for each in (target, target)])
        labels = labels.to(features[0].device, non_blocking=True)
        with torch.enable_grad():
            loss, _ = self.classifier.training_step((torch.cat(features).float(), labels), 0)
        self._optimizer.zero_grad()
        loss.backward()
        for parameter in self.classifier.parameters():
            collectives.all_reduce_sum_(parameter.grad).div_(collectives.world_size())
        # The protocol between GradScaler and torch's fused optimizers.
        setattr(self._optimizer, "found_inf", found_inf)  # noqa: B010 - torch does not declare it
        self._optimizer.step()

    def ranking(self, features: Tensor) -> Tensor:
        """Return the classes of each image, most likely first.

        Shape:
            - features: (n, F) float.
            - Output: (n, classes) int64, on the CPU.
        """
        with torch.no_grad():
            weight = self.classifier.classification_head.weight
            ranking: Tensor = self.classifier(features.to(weight.device)).argsort(dim=1, descending=True)
        return ranking

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.classifier.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.classifier.load_state_dict(state)

    def _note(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        # Skip the first pass over micro-batches, which has no gradient. The second pass repeats it.
        if torch.is_grad_enabled():
            self._features.append(output.detach().flatten(start_dim=1))


def build_probe(recipe: Recipe, model: BarlowTwins, *, num_classes: int, device: torch.device) -> OnlineProbe:
    """Build the online linear probe of a recipe.

    Args:
        recipe: Recipe of the run.
        model: Model on the device, whose backbone is probed.
        num_classes: Number of classes.
        device: Device of the model.
    """
    projector: Any = model.projector
    feature_dim = projector[0].in_features
    return OnlineProbe(
        model.backbone, feature_dim, classes=num_classes, device=device, lr=recipe.eval.probe_lr, seed=recipe.run.seed
    )


def probed_classes(recipe: Recipe, source: ImageSource) -> int | None:
    """Return the number of classes of the run's probe, or None if it has no probe.

    Args:
        recipe: Recipe of the run.
        source: Training images.
    """
    return len(source.classes) if recipe.eval.every_epochs and source.has_labels else None
