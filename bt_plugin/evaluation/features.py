"""Compute the features of every image of a source, on all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bt_plugin.evaluation.finite import check_features
from bt_plugin.runtime import collectives
from dali_pipelines.eval_loader import EvalLoader

# Size of the raw pixels as features, in px: the image size of CIFAR, which is enough for a baseline.
RAW_PX = 32


class Features(NamedTuple):
    """Features and labels of images, the same on every rank. They are on the CPU after extract_features.

    Args:
        values: (N, F) float32, the features.
        targets: (N,) int64, the labels.
    """

    values: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Features:
        """Return the features and labels on a device."""
        return Features(self.values.to(device), self.targets.to(device))


@torch.no_grad()
def extract_features(embed: Callable[[Tensor], Tensor], loader: EvalLoader, device: torch.device) -> Features:
    """Return the features of every image, once each, in the order of the source. Call it on every rank.

    Args:
        embed: Function that maps images (n, C, H, W) on the device to features (n, F).
        loader: Loader of this rank's share of the images.
        device: Device of ``embed``.

    Returns:
        The features of all ranks' images, on the CPU.

    Raises:
        DivergenceError: If features are NaN or infinite.
    """
    values, targets = [], []
    for images, labels, _ in loader:
        values.append(embed(images.to(device)).flatten(start_dim=1).float().cpu())
        targets.append(labels)
    # With fewer images than ranks, a rank has none.
    mine = Features(torch.cat(values), torch.cat(targets)) if values else None
    ranks = [part for part in collectives.all_gather_objects(mine) if part is not None]
    n = sum(len(part.targets) for part in ranks)
    # Rank r has the images r, r + world_size, ...
    at = torch.cat([torch.arange(rank, n, collectives.world_size()) for rank in range(len(ranks))]).argsort()
    features = Features(torch.cat([part.values for part in ranks])[at], torch.cat([part.targets for part in ranks])[at])
    check_features(features.values)
    return features


class RawPixels(nn.Module):
    """A backbone whose features are the raw pixels, averaged to 32 x 32 px if the image is larger."""

    def forward(self, images: Tensor) -> Tensor:
        size = min(RAW_PX, images.shape[-1])
        return functional.adaptive_avg_pool2d(images, size)
