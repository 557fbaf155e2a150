from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bt_plugin import BarlowTwinsLoss
from bt_plugin.evaluation.correlation import correlation_report, cross_correlation
from bt_plugin.evaluation.spectrum import effective_rank, lidar, rankme, singular_values
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


def papers_lidar(embeddings: torch.Tensor, delta: float, components: int) -> float:
    """Thilak et al., equations 1 to 4, of embeddings in units of their mean variance, in some principal components."""
    e = embeddings.double().numpy()
    n, q, d = e.shape
    e = e - e.mean(axis=(0, 1))
    e = e / np.sqrt((e**2).sum() / e.size)
    e = e @ np.linalg.svd(e.reshape(-1, d), full_matrices=True)[2][:components].T
    means = e.mean(axis=1)
    between, within = np.zeros((2, components, components))
    for image in range(n):
        between += np.outer(means[image], means[image]) / n
        for view in range(q):
            within += np.outer(e[image, view] - means[image], e[image, view] - means[image]) / (n * q)
    values, vectors = np.linalg.eigh(within + delta * np.eye(components))
    root = vectors / np.sqrt(values) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ between @ root).clip(0)
    shares = eigenvalues / eigenvalues.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def views_of(images: int, views: int, dimension: int, *, noise: float) -> torch.Tensor:
    """Views of images, which differ less in each further direction."""
    means = torch.randn(images, 1, dimension) * torch.logspace(0, -2, dimension)
    return means + noise * torch.randn(images, views, dimension)


@pytest.mark.parametrize(("images", "views", "dimension"), [(40, 4, 16), (12, 3, 12), (20, 8, 60), (6, 3, 50)], ids=str)
@pytest.mark.parametrize("delta", [1e-4, 0.1])
def test_lidar_is_the_papers_formula(images: int, views: int, dimension: int, delta: float) -> None:
    z = views_of(images, views, dimension, noise=0.1)
    expected = papers_lidar(z, delta, min(images, dimension))
    assert lidar(z, delta=delta) == pytest.approx(expected, rel=1e-6)
    assert 1 < expected < min(images - 1, dimension)


@pytest.mark.parametrize(("images", "dimension"), [(30, 10), (10, 30), (10, 100)])
def test_lidar_does_not_depend_on_the_frame(images: int, dimension: int) -> None:
    z = views_of(images, 4, dimension, noise=0.1)
    rotation = torch.linalg.qr(torch.randn(dimension, dimension, dtype=torch.float64)).Q
    changed = 1000 * z.double() @ rotation + 5
    assert lidar(changed) == pytest.approx(lidar(z), rel=1e-6)
    shuffled = z[torch.randperm(images)][:, torch.randperm(4)]
    assert lidar(shuffled) == pytest.approx(lidar(z), rel=1e-6)


@pytest.mark.parametrize("extra", [0, 200])
def test_lidar_of_equal_views_is_the_entropy_of_the_images_directions(extra: int) -> None:
    """It is n - 1 if they are equally many and far from each other, and 1 if all are one."""
    images = torch.cat([torch.eye(9), torch.zeros(9, extra)], dim=1)
    assert lidar(images[:, None].expand(-1, 4, -1)) == pytest.approx(8)
    unequal = images * torch.arange(1, 10)[:, None]
    squares = np.linalg.svd(unequal.double().numpy() - unequal.double().numpy().mean(0), compute_uv=False) ** 2
    shares = squares[:8] / squares.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert lidar(unequal[:, None].expand(-1, 4, -1)) == pytest.approx(expected, rel=1e-6)
    assert lidar(images[:2, None].expand(-1, 4, -1)) == pytest.approx(1)
    assert lidar(torch.ones(9, 4, 3 + extra)) == 1


def test_lidar_ignores_the_directions_in_which_views_differ_most() -> None:
    """RankMe counts a direction of noise. LiDAR counts the two in which images differ."""
    means = torch.cat([torch.randn(200, 1, 2), torch.zeros(200, 1, 3)], dim=2)
    noise = torch.cat([0.01 * torch.randn(200, 8, 2), torch.randn(200, 8, 3)], dim=2)
    z = means + noise
    assert rankme(singular_values(z[:, 0])) > 4
    assert lidar(z) == pytest.approx(2, abs=0.05)


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


@pytest.mark.parametrize("dimension", [256, 512])
def test_lidar_of_noise_is_as_the_documentation_says(dimension: int) -> None:
    assert lidar(torch.randn(256, 8, dimension)) == pytest.approx(147, abs=2)
