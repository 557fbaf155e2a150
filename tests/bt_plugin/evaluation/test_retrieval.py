"""View retrieval counts the images whose other view is the nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bt_plugin.evaluation.retrieval import view_retrieval


def test_it_is_the_mean_of_both_directions() -> None:
    """Each of three directions a finds its b. But the b at 80 degrees is nearer to another a than to its own at 60."""
    a, b = (torch.tensor(degrees).deg2rad() for degrees in ([0.0, 90.0, 60.0], [0.0, 90.0, 80.0]))
    a, b = (torch.stack([angles.cos(), angles.sin()], dim=1) for angles in (a, b))
    assert view_retrieval(a, b) == 5 / 6 == view_retrieval(b, a)


def test_it_is_the_share_by_cosine_similarity() -> None:
    """The result for more images than one chunk has equals that of all similarities at once, in float64."""
    n = 1100
    images = torch.randn(n, 12)
    a, b = images + 0.5 * torch.randn(n, 12), images + 0.5 * torch.randn(n, 12)
    rows = [features.double().numpy() / np.linalg.norm(features, axis=1, keepdims=True) for features in (a, b)]
    similarity = rows[0] @ rows[1].T
    expected = np.mean([similarity.argmax(axis) == np.arange(n) for axis in (0, 1)])
    assert 0.2 < expected < 0.9
    assert view_retrieval(a, b) == pytest.approx(expected, abs=1 / n), "but for ties by rounding"
    lengths = torch.rand(n, 1) + 0.1
    assert view_retrieval(a * lengths, b) == pytest.approx(expected, abs=1 / n)


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_a_collapsed_network_finds_nothing(constant: float) -> None:
    features = torch.full((50, 4), constant)
    assert view_retrieval(features, features) == 1 / 50
    images = torch.randn(50, 4)
    assert view_retrieval(images, images) == 1
