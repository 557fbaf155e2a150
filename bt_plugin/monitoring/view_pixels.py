"""Convert views to pixels for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipelines.views.params import EvalParams, ViewParams

# Okabe and Ito's palette suits color-blind readers. Its yellow is left out, because it is pale on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def pixels_of(image: Tensor, params: ViewParams | EvalParams) -> NDArray[np.uint8]:
    """Return the pixels of a view, without its normalization.

    Shape:
        - image: (C, height, width) floating point. The first three of more than three channels are shown, and the
          first of two.
        - Output: (height, width, 3).
    """
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (params.mean, params.std))
    if params.channels == 1:
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    levels = (image.float().cpu() * std + mean)[:3]
    pixels = (255 * levels).round().clamp(0, 255).to(torch.uint8)
    if len(pixels) < 3:
        pixels = pixels[:1].expand(3, -1, -1)
    shown: NDArray[np.uint8] = pixels.permute(1, 2, 0).contiguous().numpy()
    return shown


def rows_of(views: Sequence[Tensor], params: Sequence[ViewParams]) -> NDArray[np.uint8]:
    """Return a picture with one column per image and one row per view.

    Args:
        views: Views of the same images, each (n, C, height, width). Sizes may differ between views.
        params: Parameters of each view.
    """
    rows = [
        np.concatenate([pixels_of(image, of_view) for image in view], axis=1) for view, of_view in zip(views, params)
    ]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])
