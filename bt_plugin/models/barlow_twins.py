"""The model: a backbone, and a projector whose outputs the objective decorrelates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class BarlowTwins(nn.Module):
    """Embeds two views of each image with the same weights.

    Args:
        backbone: From images (N, C, H, W) to features (N, F).
        projector: From features (N, F) to embeddings (N, D), such as build_projector's.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Sequential) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both views.

        BatchNorm sees the views one after the other, as in the paper: concatenated, it would take its
        statistics over both, and the gradient would be another one.

        Shape:
            - view_a, view_b: (n, C, H, W) float, this rank's samples.
            - Output: z_a and z_b, (n, D) each.
        """
        features = self.backbone(view_a), self.backbone(view_b)
        if isinstance(self.projector, Projector):
            z_a, z_b = self.projector(*features)
        else:
            z_a, z_b = map(self.projector, features)
        return z_a, z_b


class Projector(nn.Sequential):
    """A projector whose linear layers take all views in one product, so that their weights are read once."""

    def forward(self, *features: Tensor) -> Any:
        """Shape: features (n, F) of one or more views, to embeddings (n, D) of each; of one view without a tuple."""
        views = features
        for layer in self:
            if isinstance(layer, nn.Linear):
                views = layer(torch.cat(views)).chunk(len(views))
            else:
                views = tuple(layer(view) for view in views)
        return views if len(views) > 1 else views[0]


def build_projector(feature_dim: int, widths: Sequence[int] = (8192, 8192, 8192)) -> Projector:
    """Linear layers without bias, with BatchNorm and ReLU between them and nothing after the last.

    Args:
        feature_dim: Of the backbone.
        widths: Outputs of the layers; the last is the dimension D of the embeddings.

    Source:
        facebookresearch/barlowtwins main.py:197-204 at 8e8d284, whose keys these are.
    """
    layers: list[nn.Module] = []
    sizes = [feature_dim, *widths]
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return Projector(*layers, nn.Linear(sizes[-2], sizes[-1], bias=False))
