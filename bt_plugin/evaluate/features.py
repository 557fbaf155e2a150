"""Features of every image of a source, on all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bt_plugin.runtime import collectives
from dali_pipelines.eval_loader import EvalLoader

# 32 x 32 pixels, CIFAR's size, are enough to tell pictures apart by their pixels.
RAW_PX = 32


class Features(NamedTuple):
    """Shape: values (N, F) float32, targets (N,) int64, the same on every rank; on the CPU when extracted."""

    values: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> Features:
        """The same on another device."""
        return Features(self.values.to(device), self.targets.to(device))


@torch.no_grad()
def extract_features(embed: Callable[[Tensor], Tensor], loader: EvalLoader, device: torch.device) -> Features:
    """Features of every image once, gathered from all ranks, in the order of the source.

    Args:
        embed: From images (n, C, H, W) on the device to features (n, F).
        loader: This rank's images.
        device: Of embed.
    """
    values, targets = [], []
    for images, labels, _ in loader:
        values.append(embed(images.to(device)).flatten(start_dim=1).float().cpu())
        targets.append(labels)
    # A rank may have no image at all.
    mine = Features(torch.cat(values), torch.cat(targets)) if values else None
    ranks = [part for part in collectives.all_gather_objects(mine) if part is not None]
    n = sum(len(part.targets) for part in ranks)
    # Rank r has the images r, r + world_size, ...
    at = torch.cat([torch.arange(rank, n, collectives.world_size()) for rank in range(len(ranks))]).argsort()
    return Features(torch.cat([part.values for part in ranks])[at], torch.cat([part.targets for part in ranks])[at])


class RawPixels(nn.Module):
    """The pixels themselves, shrunk to 32 x 32 where they are more."""

    def forward(self, images: Tensor) -> Tensor:
        size = min(RAW_PX, images.shape[-1])
        return functional.adaptive_avg_pool2d(images, size)
