"""The views of an evaluation are the same each time, and on any number of ranks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bt_plugin.config.recipe import Recipe
from bt_plugin.evaluation import fixed_views
from bt_plugin.evaluation.features import RawPixels
from bt_plugin.evaluation.fixed_views import FixedViews
from bt_plugin.evaluation.online import OnlineEvaluation
from bt_plugin.evaluation.retrieval import view_retrieval
from bt_plugin.evaluation.spectrum import lidar
from bt_plugin.models.from_recipe import build_model
from dali_pipelines import image_folder
from tests.ranks import run_ranks


def views_of(data: Path, seed: int, batch_size: int) -> tuple[FixedViews, Recipe]:
    content = {
        "data": {"train": str(data / "train"), "num_threads": 1},
        "views": {"both": {"size_px": 32}},
        "model": {"backbone": "torchvision/shufflenet_v2_x0_5", "projector": [8]},
        "run": {"output_dir": "unused", "seed": seed},
        "eval": {"batch_size": batch_size},
    }
    recipe = Recipe.model_validate(content)
    return FixedViews(recipe, image_folder(data / "train"), torch.device("cpu")), recipe


def of_rank(rank: int, data: Path, seed: int, batch_size: int) -> tuple[int, list[Tensor], Tensor]:
    views, recipe = views_of(data, seed, batch_size)
    two = views.two(RawPixels(), nn.Identity())
    torch.manual_seed(seed)
    return views.images, [two.features_a, two.features_b], views.many(build_model(recipe).eval())


def in_order(rows: Tensor) -> Tensor:
    """The rows by their sums, which differ."""
    return rows[rows.double().flatten(start_dim=1).sum(dim=1).argsort()]


@pytest.mark.distributed
@pytest.mark.parametrize(("seed", "batch_size"), [(0, 16), (1, 256)])
def test_two_ranks_have_the_views_of_one(small_data: Path, seed: int, batch_size: int) -> None:
    images, features, embeddings = of_rank(0, small_data, seed, batch_size)
    together = run_ranks(2, of_rank, small_data, seed, batch_size)
    for each_images, each_features, each_embeddings in together:
        assert each_images == images == len(each_features[0]) == len(features[0])
        assert len(each_embeddings) == len(embeddings)
        for ours, theirs in zip(each_features, features):
            assert torch.equal(in_order(ours), in_order(theirs))
        torch.testing.assert_close(in_order(each_embeddings), in_order(embeddings))
        assert view_retrieval(*each_features) == view_retrieval(*features)
        assert lidar(each_embeddings) == pytest.approx(lidar(embeddings), rel=1e-4)


def looked_at(rank: int, data: Path) -> dict[str, float]:
    _, recipe = views_of(data, 0, 16)
    recipe = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"online_images": 2})})
    train = image_folder(data / "train")
    online = OnlineEvaluation(
        recipe, partial(build_model, recipe), train, val=None, device=torch.device("cpu"), probe=None
    )
    # The process runs other tests afterwards.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fixed_views, "_LIDAR_IMAGES", 2)
        return online.run(build_model(recipe)).values


@pytest.mark.distributed
def test_more_ranks_than_images_take_one_each(small_data: Path) -> None:
    values, *others = run_ranks(3, looked_at, small_data)
    assert values["view_retrieval_images"] == 3
    assert all(other == values for other in others)


def test_an_incomplete_batch_is_left_out(small_data: Path) -> None:
    views, recipe = views_of(small_data, 0, 16)
    assert len(image_folder(small_data / "train")) == 36
    assert views.images == 32 == len(views.two(RawPixels(), nn.Identity()).z_a)
    assert views.many(build_model(recipe).eval()).shape == (36, 8, 8), "in batches of four images with eight views"


def test_the_views_are_those_of_training(small_data: Path) -> None:
    """The eight views of an image differ, and the first two are those of view retrieval."""
    views, recipe = views_of(small_data, 0, 256)
    model = build_model(recipe).eval()
    model.backbone, model.projector = RawPixels(), nn.Flatten()
    pixels = views.many(model)
    n, q, _ = pixels.shape
    assert len(torch.unique(pixels.flatten(end_dim=1), dim=0)) == n * q, "all views differ"
    two = views.two(RawPixels(), nn.Identity())
    again = views.two(RawPixels(), nn.Identity())
    assert torch.equal(two.features_a, again.features_a)
    assert torch.equal(two.features_a, pixels[:, 0]), "the first draw is that of the two views"
    assert torch.equal(two.features_b, pixels[:, 1])
    found = [view_retrieval(pixels[:, 0], pixels[:, view]) for view in range(1, q)]
    assert sum(found) / len(found) > 3 / n, "all are of one image, which by chance is found once in n"
