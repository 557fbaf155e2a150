from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from bt_plugin import BarlowTwinsLoss
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.monitoring.collapse_warning import CollapseSigns, warn_of_lambda
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("form", ["cross", "gram"])
def test_the_loss_tells_agreement_and_spread(form: Literal["cross", "gram"]) -> None:
    torch.manual_seed(0)
    z = 3 * torch.randn(4096, 8) + 5
    same = BarlowTwinsLoss(form=form).terms(z, z)
    assert same.diagonal_mean.item() == pytest.approx(1, abs=1e-4)
    assert same.embedding_std.item() == pytest.approx(3, rel=0.05)
    other = BarlowTwinsLoss(form=form).terms(z, torch.randn(4096, 8))
    assert abs(other.diagonal_mean.item()) < 0.05
    assert other.embedding_std.item() == pytest.approx(2, rel=0.05)
    point = BarlowTwinsLoss(form=form).terms(z[:1].expand(64, 8), z[:1].expand(64, 8))
    assert point.embedding_std.item() == pytest.approx(1e-5**0.5, rel=1e-3)


def test_each_sign_is_told_once_and_again_after_it_went(caplog: pytest.LogCaptureFixture) -> None:
    signs = CollapseSigns("optim.lr")
    phases = ((0.5, 1.0), (0.01, 1.0), (-0.2, 1.0), (0.5, 1.0), (0.04, 0.005), (0.04, 1.0))
    for step in range(10 * len(phases)):
        signs.watch(step, *phases[step // 10])
    # A phase is the average when its last step is: a few of another do not count.
    assert [message.partition(":")[0] for message in caplog.messages] == ["step 19", "step 49", "step 49"]
    assert "mean of C_ii 0.010" in caplog.messages[0]
    assert "optim.lr too high" in caplog.messages[0]
    assert "standard deviation 0.005" in caplog.messages[2]


@pytest.mark.parametrize(
    ("value", "dim", "word"), [(5.1e-3, 64, "The invariance term"), (0.5, 8192, "The redundancy term")]
)
def test_an_unusual_lambda_is_told(value: float, dim: int, word: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_lambda(value, dim)
    (message,) = caplog.messages
    assert f"loss.lambda_param: {value:g} times {dim} features" in message
    assert f"{word} will dominate" in message


def test_the_recipes_are_usual(caplog: pytest.LogCaptureFixture) -> None:
    recipes: list[Path] = sorted((REPOSITORY / "recipes" / "pretrain").glob("*.yaml"))
    for path in recipes:
        recipe = load_recipe(path)
        warn_of_lambda(recipe.loss.lambda_param, recipe.model.projector[-1])
    warn_of_lambda("auto", 64)
    assert not caplog.messages
