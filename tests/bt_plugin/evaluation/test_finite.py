"""Features and classifiers that are not finite have no accuracy."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bt_plugin.config.evaluation_recipe import Linear
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import DivergenceError, RecipeError
from bt_plugin.evaluation.features import Features, extract_features
from bt_plugin.evaluation.linear import linear_on_features
from bt_plugin.evaluation.online import OnlineEvaluation
from bt_plugin.models.from_recipe import build_model
from dali_pipelines import Backend, EvalLoader, EvalParams, image_folder
from tests.ranks import run_ranks

CPU = torch.device("cpu")


class Overflowing(nn.Module):
    """A network whose feature of the brightest images is too large for float32."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((1, 2, 3))
        return torch.where(means > means.median(), means * torch.inf, means)[:, None].expand(-1, 4)


def refusal(rank: int, folder: Path) -> str:
    loader = EvalLoader(folder, 256, EvalParams(32, 36), backend=Backend(device="cpu", num_threads=1))
    with pytest.raises(DivergenceError) as error:
        extract_features(Overflowing(), loader, CPU)
    return str(error.value)


@pytest.mark.distributed
def test_features_that_are_not_finite_are_refused_on_every_rank(small_data: Path) -> None:
    one, other = run_ranks(2, refusal, small_data / "val")
    assert one == other
    assert "features of 6 of 12 images are NaN or infinite" in one


def test_an_evaluation_without_labels_refuses_them_too(small_recipe: Path, small_data: Path) -> None:
    recipe = load_recipe(small_recipe)
    build = partial(build_model, recipe)
    online = OnlineEvaluation(recipe, build, image_folder(small_data / "train"), val=None, device=CPU, probe=None)
    model = build()
    next(model.projector.parameters()).data.fill_(torch.nan)
    with pytest.raises(DivergenceError, match="features of 36 of 36 images"):
        online.run(model)


def blobs(n: int) -> Features:
    targets = torch.arange(n) % 2
    # Class 0 has three quarters of the images: what NaN as the first class would have as accuracy.
    targets[: n // 2] = 0
    return Features(targets[:, None] + 0.1 * torch.randn(n, 4), targets)


def test_a_diverged_classifier_is_not_chosen() -> None:
    train = blobs(400)
    result = linear_on_features(train, train, options=Linear(epochs=2, cached_lrs=(1e30, 0.1)), seed=0)
    assert result.lr == 0.1
    assert result.chosen_by[1e30] == 0


def test_a_diverged_classifier_has_no_accuracy() -> None:
    with pytest.raises(DivergenceError, match=r"linear\.cached_lrs: .* 400 of 400 images; use lower"):
        linear_on_features(blobs(400), blobs(400), options=Linear(epochs=2, cached_lrs=(1e30,)), seed=0)


def test_one_image_trains_no_classifier() -> None:
    with pytest.raises(RecipeError, match=r"data\.train: 1 image"):
        linear_on_features(blobs(1), blobs(4), options=Linear(epochs=1), seed=0)
