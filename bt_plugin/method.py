"""The model: a backbone, and a projector whose outputs the objective decorrelates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class BarlowTwins(nn.Module):
    """Embeds two views of each image with the same weights.

    Args:
        backbone: From images (N, C, H, W) to features (N, F).
        projector: From features (N, F) to embeddings (N, D).
    """

    def __init__(self, backbone: nn.Module, projector: nn.Sequential) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of both views.

        The views pass one after the other, as in the paper: concatenated, BatchNorm would take its
        statistics over both, and the gradient would be another one.

        Shape:
            - view_a, view_b: (n, C, H, W) float, this rank's samples.
            - Output: z_a and z_b, (n, D) each.
        """
        return self.projector(self.backbone(view_a)), self.projector(self.backbone(view_b))


def build_projector(feature_dim: int, widths: Sequence[int] = (8192, 8192, 8192)) -> nn.Sequential:
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
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1], bias=False))
