"""Measure without labels whether a network recognizes an image in its other view."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Queries at a time. This limits memory: each chunk has a similarity to every image.
_CHUNK = 1024


def view_retrieval(features_a: Tensor, features_b: Tensor) -> float:
    """Return the share of images whose other view is the nearest one, by cosine similarity.

    Each view a is compared with the views b of all N images, and each view b with all views a. The result is the mean
    of the two directions. A network that sees no difference between images has about 1/N.

    Args:
        features_a: Features of view a of each image.
        features_b: Features of view b of the same images, in the same order.

    Shape:
        - features_a, features_b: (N, F) floating point, the images of all ranks.
    """
    a, b = (functional.normalize(features.float(), dim=1) for features in (features_a, features_b))
    return (_found(a, b) + _found(b, a)) / (2 * len(a))


def _found(queries: Tensor, candidates: Tensor) -> int:
    """Count the queries whose most similar candidate is the one of the same image."""
    nearest = torch.cat([(chunk @ candidates.T).argmax(dim=1) for chunk in queries.split(_CHUNK)])
    return int((nearest == torch.arange(len(queries), device=queries.device)).sum())
