"""The numbers of docs/loss_value.md are those of the loss, and of the record that it names."""

from __future__ import annotations

import json
import math
import re
from statistics import fmean

import pytest
import torch

from bt_plugin import BarlowTwinsLoss
from bt_plugin.loss.barlow_twins import EPS
from tests.conftest import REPOSITORY
from tests.tolerance import rounding

PAGE = (REPOSITORY / "docs" / "loss_value.md").read_text()
LAMBDA = 5.1e-3


def table(first_cells: str) -> list[list[float]]:
    """The rows of the table whose head begins so."""
    lines = PAGE[PAGE.index(f"| {first_cells} |") :].split("\n\n")[0].splitlines()[2:]
    return [[float(cell) for cell in line.strip("| ").split(" | ")] for line in lines]


def at_random(n: int, d: int) -> tuple[float, float]:
    """The expected loss and redundancy of independent embeddings."""
    redundancy = d * (d - 1) / (n - 1)
    return d * n / (n - 1) + LAMBDA * redundancy, redundancy


def floor(n: int, d: int) -> float:
    k = max(0.0, LAMBDA * (d / (n - 1) - 1))
    return d * k / (1 + k)


def test_random_embeddings() -> None:
    rows = table("N | D | expected")
    assert len(rows) >= 6
    for n, d, *written in rows:
        expected = at_random(int(n), int(d))
        assert written[::2] == [pytest.approx(value, abs=0.051) for value in expected]
        generator = torch.Generator().manual_seed(0)
        draws = [torch.randn(2, int(n), int(d), generator=generator) for _ in range(3)]
        terms = [BarlowTwinsLoss(LAMBDA).terms(*views) for views in draws]
        # Half of the last place that is written, and what other processors draw and sum a little otherwise.
        share = rounding(max(int(n), int(d)))
        for cell, term in ((written[1], "loss"), (written[3], "redundancy")):
            mean = fmean(float(getattr(each, term)) for each in terms)
            assert cell == pytest.approx(mean, rel=0, abs=0.051 + share * mean)
        assert written[1] == pytest.approx(expected[0], rel=0.05)
        assert written[3] == pytest.approx(expected[1], rel=0.05)


def test_floors() -> None:
    for n, d, random, least, share in table("N | D | loss at random"):
        assert random == round(at_random(int(n), int(d))[0])
        assert least == round(floor(int(n), int(d)))
        assert share == pytest.approx(floor(int(n), int(d)) / d, abs=5.1e-4)


def test_the_floor_is_nearly_reached() -> None:
    """An even frame: its features are spread over all N - 1 directions that a batch has."""
    n, d = 33, 128
    angles = 2 * math.pi * torch.outer(torch.arange(1, (n - 1) // 2 + 1), torch.arange(d)).double() / d
    frame = torch.cat((angles.cos(), angles.sin()))
    # Directions that are orthogonal to the mean, and to each other.
    directions = torch.linalg.qr(torch.cat((torch.ones(n, 1), torch.eye(n)[:, 1:]), dim=1).double())[0][:, 1:]
    views = 100 * directions @ frame
    k = LAMBDA * (d / (n - 1) - 1)
    loss = float(BarlowTwinsLoss(LAMBDA)(views, views))
    assert loss == pytest.approx(d * k, rel=1e-3)
    assert floor(n, d) < loss


def test_collapses() -> None:
    d = 32
    point = BarlowTwinsLoss(LAMBDA).terms(torch.ones(16, d), torch.ones(16, d))
    assert [float(value) for value in point[:3]] == [d, d, 0]
    assert float(point.embedding_std) == pytest.approx(math.sqrt(EPS), rel=1e-3)
    assert float(point.diagonal_mean) == 0
    line = torch.randn(16, 1, generator=torch.Generator().manual_seed(0)).expand(16, d).contiguous()
    agreeing, opposed = (BarlowTwinsLoss(LAMBDA).terms(line, sign * line) for sign in (1, -1))
    assert float(agreeing.loss) == pytest.approx(LAMBDA * d * (d - 1), rel=1e-3)
    assert float(opposed.loss) == pytest.approx(4 * d + LAMBDA * d * (d - 1), rel=1e-3)
    narrow = math.sqrt(EPS) * (line - line.mean()) / line.std(correction=0)
    assert float(BarlowTwinsLoss().terms(narrow, narrow).diagonal_mean) == pytest.approx(0.5, rel=1e-3)


def test_the_curve_is_the_record_s() -> None:
    (name,) = set(re.findall(r"records/[\w-]+_quickstart\.json", PAGE))
    metrics = json.loads((REPOSITORY / "benchmarks" / name).read_text())["runs"][0]["metrics"]
    d = 512
    for epoch, *written in table("epoch | loss"):
        steps = [line for line in metrics if line["epoch"] == epoch - 1]
        loss, invariance, redundancy, *others = (
            fmean(line[key] for line in steps)
            for key in ("loss", "invariance", "redundancy", "diagonal_mean", "embedding_std")
        )
        expected = [
            loss,
            invariance / d,
            math.sqrt(invariance / d),
            redundancy,
            math.sqrt(redundancy / (d * (d - 1))),
            *others,
        ]
        places = (0.051, 5.1e-4, 5.1e-4, 0.51, 5.1e-4, 5.1e-4, 5.1e-3)
        assert written == [pytest.approx(value, abs=place) for value, place in zip(expected, places, strict=True)]
    last = [line["loss"] for line in metrics if line["epoch"] == 11]
    text = " ".join(PAGE.split())
    assert f"from {min(last):.0f} to {max(last):.0f}" in text
    assert f"{metrics[0]['loss']:.0f} at the first step" in text
    assert f"from {metrics[0]['redundancy']:.0f} at the first step" in text
