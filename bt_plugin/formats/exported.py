"""What is converted: the export of a run, or a folder made by `import`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bt_plugin.errors import WeightsError
from bt_plugin.export import load_backbone
from bt_plugin.rundir import EXPORT, MODEL, RECIPE

# Relative to the largest feature.
TOLERANCE = 1e-4
_FILES = (MODEL, "backbone.safetensors")


@dataclass(frozen=True)
class Exported:
    """A backbone on the disk.

    Args:
        folder: With model.json and backbone.safetensors.
        run_dir: Of the run that exported it, None if it was imported.
        description: model.json.
    """

    folder: Path
    run_dir: Path | None
    description: dict[str, Any]

    @property
    def backbone_name(self) -> str:
        """torchvision/NAME or timm/NAME, whose keys the backbone has."""
        name: str = self.description["model"]["backbone"]
        return name

    @property
    def architecture(self) -> str:
        """NAME alone."""
        return self.backbone_name.partition("/")[2]

    @property
    def stem(self) -> str:
        """As in build_backbone."""
        stem: str = self.description["model"]["stem"]
        return stem

    @property
    def in_chans(self) -> int:
        """As in build_backbone."""
        channels: int = self.description["model"]["in_chans"]
        return channels

    @property
    def eval_view(self) -> dict[str, Any] | None:
        """Size and normalisation of the images, None if it is not known."""
        view: dict[str, Any] | None = self.description.get("eval_view")
        return view

    def mean_and_std(self) -> tuple[list[float], list[float]] | None:
        """Of the normalisation, as many values as channels, None if it is not known.

        Gray images are normalised by the averages of three values.
        """
        if not self.eval_view:
            return None
        mean, std = (list(self.eval_view[name]) for name in ("mean", "std"))
        if self.in_chans == 1:
            mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
        return mean, std

    @property
    def size_px(self) -> int:
        """Of images to try the backbone with."""
        if self.eval_view:
            size: int = self.eval_view["size_px"]
            return size
        return 32 if self.stem == "small" else 224

    def state(self) -> dict[str, Tensor]:
        """The backbone's weights."""
        state: dict[str, Tensor] = load_file(self.folder / "backbone.safetensors")
        return state

    def module(self) -> nn.Module:
        """The backbone in evaluation mode."""
        return load_backbone(self.folder).module.eval()

    def images(self, count: int) -> Tensor:
        """So many random images, normalised; the same each time."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, self.in_chans, self.size_px, self.size_px, generator=generator)

    def check(self, to: str, converted: Callable[[Tensor], Tensor]) -> None:
        """Compares the features of what was written with the backbone's own, on random images and batches of two sizes.

        Raises:
            WeightsError: If they differ.
        """
        module = self.module()
        for count in (1, 3):
            images = self.images(count)
            with torch.no_grad():
                expected = module(images)
                worst = (converted(images) - expected).abs().max().item()
            if not worst <= TOLERANCE * (1 + expected.abs().max().item()):
                raise WeightsError(
                    f"--to {to}: its features differ from torch's by up to {worst:.2g}; take safetensors"
                )


def open_exported(path: str | Path) -> Exported:
    """Opens a run's directory, its export folder, or a folder made by `import`.

    Raises:
        WeightsError: If there is no export.
    """
    path = Path(path)
    folder = path / EXPORT if (path / EXPORT).is_dir() else path
    if missing := [name for name in _FILES if not (folder / name).is_file()]:
        raise WeightsError(
            f"{path} has no {' and no '.join(missing)}; name the directory of a run that is finished, its export"
            " folder, or what `import` has made of a checkpoint"
        )
    description = json.loads((folder / MODEL).read_text(encoding="utf-8"))
    run_dir = folder.parent if (folder.parent / RECIPE).is_file() else None
    return Exported(folder, run_dir, description)
