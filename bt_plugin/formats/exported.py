"""The backbone to convert: the export of a run, or a folder made by `import`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bt_plugin.errors import WeightsError
from bt_plugin.models.backbone_names import is_own
from bt_plugin.models.own_backbone import Factory
from bt_plugin.runs.directory import RECIPE
from bt_plugin.weights.export_folder import load_backbone
from bt_plugin.weights.model_file import EvalView, ModelDescription
from bt_plugin.weights.tensors import shown

# Largest allowed difference of features, relative to the largest feature.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exported:
    """A backbone on disk.

    Args:
        folder: The folder with model.json and backbone.safetensors.
        description: The content of model.json.
        given: Function of a network of the user's own, or its name.
    """

    folder: Path
    description: ModelDescription
    given: str | Factory | None = None

    @property
    def run_dir(self) -> Path | None:
        """The directory of the run that exported the backbone, None if it was imported."""
        return self.folder.parent if (self.folder.parent / RECIPE).is_file() else None

    @property
    def backbone_name(self) -> str:
        """The name, as in build_backbone. The backbone has its library's keys."""
        return self.description.model.backbone

    @property
    def architecture(self) -> str:
        """The name without its library. For a function of the user's: its own name."""
        name = self.backbone_name
        return name.rpartition(":")[2].rpartition(".")[2].strip("<>") if is_own(name) else name.partition("/")[2]

    @property
    def stem(self) -> str:
        """The stem, as in build_backbone."""
        return self.description.model.stem

    @property
    def in_chans(self) -> int:
        """The number of channels, as in build_backbone."""
        return self.description.model.in_chans

    @property
    def args(self) -> dict[str, Any]:
        """The further arguments, as in build_backbone."""
        return self.description.model.args

    @property
    def eval_view(self) -> EvalView | None:
        """Size and normalization of the images, None if unknown."""
        return self.description.eval_view

    def mean_and_std(self) -> tuple[list[float], list[float]] | None:
        """Return the normalization with one value per channel, None if unknown.

        Gray images are normalized with the averages of three values.
        """
        if not self.eval_view:
            return None
        mean, std = self.eval_view.mean, self.eval_view.std
        if self.in_chans == 1:
            mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
        return mean, std

    @cached_property
    def size_px(self) -> int:
        """The size in px of the images that test the backbone."""
        if self.eval_view:
            return self.eval_view.size_px
        return 32 if self.stem == "small" else _own_size_px(self.module())

    def state(self) -> dict[str, Tensor]:
        """Return the backbone's weights."""
        return self.module().state_dict()

    def module(self) -> nn.Module:
        """Return the backbone in evaluation mode."""
        return load_backbone(self.folder, self.given).module.eval()

    def features(self, module: nn.Module, images: Tensor) -> Tensor:
        """Return a module's features.

        Raises:
            WeightsError: If the module does not take images of this size and these channels.
        """
        try:
            with torch.no_grad():
                features: Tensor = module(images)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise WeightsError(
                f"{self.folder}: {self.backbone_name} takes no images of {tuple(images.shape[1:])} (channels, height,"
                f" width), the shape in model.json: {shown(str(error))}. Train with another size or backbone"
            ) from error
        return features

    def images(self, count: int) -> Tensor:
        """Return random normalized images, the same at each call."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, self.in_chans, self.size_px, self.size_px, generator=generator)

    def check(self, to: str, converted: Callable[[Tensor], Tensor]) -> None:
        """Compare the features of the written file with the backbone's own, on random images in batches of two sizes.

        Raises:
            WeightsError: If they differ.
        """
        module = self.module()
        for count in (1, 3):
            images = self.images(count)
            expected = self.features(module, images)
            with torch.no_grad():
                worst = (converted(images) - expected).abs().max().item()
            if not worst <= TOLERANCE * (1 + expected.abs().max().item()):
                raise WeightsError(
                    f"--to {to}: its features differ from torch's by up to {worst:.2g}. Use --to safetensors"
                )


def _own_size_px(module: nn.Module) -> int:
    """Return the size in px that a network of timm or torchvision was made for, 224 if it is not stored."""
    configuration = getattr(module, "pretrained_cfg", None) or {}
    own = configuration.get("input_size", (3, 0, 0))[-1] or getattr(module, "image_size", 224)
    return own if isinstance(own, int) else 224
