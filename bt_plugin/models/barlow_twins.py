"""The model: a backbone, and a projector whose embeddings the loss decorrelates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class BarlowTwins(nn.Module):
    """A backbone and a projector that embed two views of each image with the same weights.

    Args:
        backbone: Network that maps images (n, C, H, W) to features (n, F), such as that of build_backbone.
        projector: Network that maps features (n, F) to embeddings (n, D), such as that of build_projector.

    Examples:
        >>> from bt_plugin import BarlowTwins, BarlowTwinsLoss, build_backbone, build_projector
        >>> backbone, feature_dim = build_backbone("torchvision/resnet18")
        >>> model = BarlowTwins(backbone, build_projector(feature_dim, (2048, 2048, 2048)))
        >>> view_a, view_b = torch.randn(2, 4, 3, 96, 96)
        >>> loss = BarlowTwinsLoss()(*model(view_a, view_b))
    """

    def __init__(self, backbone: nn.Module, projector: nn.Sequential) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of both views.

        The views pass BatchNorm one after the other, as in the paper. If they were concatenated, BatchNorm would
        compute its statistics over both, and the gradient would differ.

        Args:
            view_a: First views of the images.
            view_b: Second views of the same images, in the same order.

        Shape:
            - view_a, view_b: (n, C, H, W) float, in either memory layout, this rank's samples.
            - Output: z_a and z_b, (n, D) float each, this rank's samples.
        """
        features = self.backbone(view_a), self.backbone(view_b)
        if isinstance(self.projector, Projector):
            z_a, z_b = self.projector(*features)
        else:
            z_a, z_b = map(self.projector, features)
        return z_a, z_b


class Projector(nn.Sequential):
    """A projector whose linear layers multiply all views at once, so that their weights are read once."""

    def forward(self, *features: Tensor) -> Any:
        """Return the embeddings of one or more views.

        Shape:
            - features: (n, F) float for each view.
            - Output: a tensor (n, D) for one view, a tuple of such tensors for several views.
        """
        views = features
        for layer in self:
            if isinstance(layer, nn.Linear):
                views = layer(torch.cat(views)).chunk(len(views))
            else:
                views = tuple(layer(view) for view in views)
        return views if len(views) > 1 else views[0]


def build_projector(feature_dim: int, widths: Sequence[int] = (8192, 8192, 8192)) -> Projector:
    """Build a projector: linear layers without bias, with BatchNorm and ReLU between them and nothing after the last.

    The keys of its state_dict are those of the official code.

    Args:
        feature_dim: Number of features of the backbone.
        widths: Output widths of the linear layers, at least one. The last is D, the dimension of the embeddings.

    Source:
        facebookresearch/barlowtwins main.py:197-204 at 8e8d284.

    Examples:
        >>> build_projector(512, (2048, 2048, 128))(torch.randn(4, 512)).shape
        torch.Size([4, 128])
    """
    layers: list[nn.Module] = []
    sizes = [feature_dim, *widths]
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    return Projector(*layers, nn.Linear(sizes[-2], sizes[-1], bias=False))
