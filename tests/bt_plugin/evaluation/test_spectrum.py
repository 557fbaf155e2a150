from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bt_plugin import BarlowTwinsLoss
from bt_plugin.evaluation.correlation import correlation_report, cross_correlation
from bt_plugin.evaluation.spectrum import effective_rank, rankme, singular_values
from tests.tolerance import rounding


def test_rankme_counts_directions() -> None:
    directions = torch.linalg.qr(torch.randn(40, 40))[0]
    assert rankme(singular_values(directions)) == pytest.approx(40, rel=1e-4)
    assert rankme(singular_values(directions[:, :7])) == pytest.approx(7, rel=1e-4)
    # A singular value of 0 comes out as rounding, and counts as its share of the entropy.
    noise = rounding(40)
    assert rankme(singular_values(torch.ones(40, 8))) == pytest.approx(1, abs=-7 * noise * math.log(noise))
    assert rankme(singular_values(torch.zeros(40, 8))) == pytest.approx(1, abs=1e-3)


def test_rankme_is_the_papers_formula() -> None:
    z = torch.randn(50, 20) * torch.logspace(0, -3, 20)
    singular = np.linalg.svd(z.double().numpy(), compute_uv=False)
    shares = singular / singular.sum() + 1e-7
    assert rankme(singular_values(z)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_an_offset_is_no_direction() -> None:
    z = torch.randn(200, 5)
    assert effective_rank(z + 100) == pytest.approx(effective_rank(z), rel=1e-3)
    assert rankme(singular_values(z + 100)) < 1.5


def test_c_is_the_correlation() -> None:
    z_a = torch.randn(300, 6) * torch.arange(1, 7) + 5
    z_b = z_a + torch.randn(300, 6)
    c = cross_correlation(z_a, z_b)
    expected = np.corrcoef(z_a.numpy().T, z_b.numpy().T)[:6, 6:]
    np.testing.assert_allclose(c.numpy(), expected, atol=1e-4)
    report = correlation_report(c)
    rest = expected[~np.eye(6, dtype=bool)]
    assert report == pytest.approx(
        {
            "diagonal_mean": expected.diagonal().mean(),
            "diagonal_std": expected.diagonal().std(),
            "off_diagonal_mean": rest.mean(),
            "off_diagonal_std": rest.std(),
        },
        abs=1e-4,
    )
    terms = BarlowTwinsLoss().terms(z_a, z_b)
    assert terms.diagonal_mean.item() == pytest.approx(report["diagonal_mean"], abs=1e-5)
    assert terms.redundancy.item() == pytest.approx(
        c.square().sum().item() - c.diagonal().square().sum().item(), rel=1e-3
    )


def test_one_feature_has_no_rest() -> None:
    assert correlation_report(torch.ones(1, 1))["off_diagonal_std"] == 0
