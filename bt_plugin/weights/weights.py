"""Weights in memory, whichever program wrote them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bt_plugin.models.backbones import Stem


@dataclass(frozen=True)
class Weights:
    """The weights of a backbone, and of its projector if the file has a projector that fits.

    Args:
        kind: Layout of the file: official, lightly, solo-learn, state-dict, or bt-plugin for an export.
        backbone_name: Name of the backbone, "torchvision/NAME" or "timm/NAME".
        stem: Stem, standard or small, as in build_backbone.
        in_chans: Number of channels of the images.
        backbone: Weights in float32 with the keys of the backbone's library, without a classifier.
        projector: Weights with the keys of build_projector, or None.
        dropped: Descriptions of everything else in the file.
        feature_dim: Number of the backbone's features.
    """

    kind: str
    backbone_name: str
    stem: Stem
    in_chans: int
    backbone: dict[str, Tensor]
    projector: dict[str, Tensor] | None
    dropped: list[str]
    feature_dim: int
