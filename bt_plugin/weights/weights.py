"""Weights in memory, whichever program wrote them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bt_plugin.models.backbones import Stem


@dataclass(frozen=True)
class Weights:
    """A backbone's weights, and its projector's where the file has one that fits.

    Args:
        kind: Whose layout the file has: official, lightly, solo-learn, state-dict, or bt-plugin for our own.
        backbone_name: "torchvision/NAME" or "timm/NAME".
        stem: standard or small, as in build_backbone.
        in_chans: Channels of the images.
        backbone: The weights in float32, in its library's own keys, without a classifier.
        projector: The weights in the keys of build_projector, or None.
        dropped: What else is in the file, in words.
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
