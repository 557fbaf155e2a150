"""Views as a person may look at them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dali_pipelines.views.params import EvalParams, ViewParams

# Told apart by those who see colours otherwise too: Okabe and Ito's palette, without its yellow, pale on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def pixels_of(image: Tensor, params: ViewParams | EvalParams) -> NDArray[np.uint8]:
    """A view without its normalisation.

    Shape:
        - image: (C, height, width) floating point; of more than three channels the first
          three are shown, of two the first.
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
    """A picture with an image a column, and a view a row.

    Args:
        views: Each (n, C, height, width) of the same images; sizes may differ from view to view.
        params: Of each view.
    """
    rows = [
        np.concatenate([pixels_of(image, of_view) for image in view], axis=1) for view, of_view in zip(views, params)
    ]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])
