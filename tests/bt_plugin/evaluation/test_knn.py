"""kNN by hand, features over ranks, and the fairness of the untrained baseline."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bt_plugin.checkpoints.state import with_weights_of
from bt_plugin.config.evaluation_recipe import Knn
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.run import Eval
from bt_plugin.evaluation.features import Features, RawPixels, extract_features
from bt_plugin.evaluation.final_evaluation import FINAL_METRICS, _networks, calibrate_batch_norm, evaluate_finally
from bt_plugin.evaluation.knn import knn_accuracy
from bt_plugin.evaluation.online import OnlineEvaluation
from bt_plugin.models.from_recipe import build_model
from dali_pipelines import Backend, EvalLoader, EvalParams, image_folder
from tests.devices import on_each_device
from tests.ranks import run_ranks
from tests.tolerance import assert_rounded


def by_hand(bank: Features, queries: Features, k: int, temperature: float) -> float:
    """Each query's votes, one at a time."""
    correct = 0
    for query, target in zip(queries.values.double().numpy(), queries.targets.tolist()):
        known = bank.values.double().numpy()
        similarity = known @ query / np.linalg.norm(known, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-similarity)[:k]
        votes: dict[int, float] = {}
        for index in nearest:
            label = int(bank.targets[index])
            votes[label] = votes.get(label, 0) + np.exp(similarity[index] / temperature)
        correct += max(votes, key=lambda label: votes[label]) == target
    return correct / len(queries.targets)


def top1(bank: Features, queries: Features, k: int, temperature: float = 0.1) -> float:
    accuracy = knn_accuracy(bank, queries, k=k, temperature=temperature)
    return accuracy.top1 / accuracy.n


@on_each_device
def test_knn_is_the_weighted_vote(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 0.8 * torch.randn(5, 16, generator=generator)

    def sample(n: int) -> Features:
        targets = torch.randint(0, 5, (n,), generator=generator)
        return Features(centres[targets] + torch.randn(n, 16, generator=generator), targets)

    bank, queries = sample(200), sample(600)
    expected = by_hand(bank, queries, 20, 0.1)
    assert 0.4 < expected < 0.98
    there = [features.to(torch.device("cuda" if device == "gpu" else "cpu")) for features in (bank, queries)]
    assert top1(*there, k=20, temperature=0.1) == pytest.approx(expected)
    assert top1(*there, k=1000) == pytest.approx(by_hand(bank, queries, 200, 0.1))


def test_the_smallest_temperature_is_the_vote_of_the_nearest() -> None:
    """The weights of votes are float32. Below the smallest temperature of a recipe they would overflow."""
    generator = torch.Generator().manual_seed(0)
    bank = Features(torch.randn(60, 8, generator=generator), torch.arange(60) % 3)
    queries = Features(torch.nn.functional.normalize(bank.values) + 1e-3, bank.targets)
    for k in (20, 60):
        assert top1(bank, queries, k=k, temperature=0.02) == by_hand(bank, queries, k, 0.02) == 1
    with pytest.raises(ValidationError, match="temperature"):
        Knn(temperature=0.011)
    with pytest.raises(ValidationError, match="knn_temperature"):
        Eval(knn_temperature=0.011)


def test_knn_without_labels_is_refused() -> None:
    features = Features(torch.eye(2), torch.tensor([-1, -1]))
    with pytest.raises(ValueError, match="needs labels"):
        knn_accuracy(features, features)


def test_raw_pixels_are_at_most_32_px() -> None:
    assert RawPixels()(torch.zeros(2, 3, 64, 64)).shape == (2, 3, 32, 32)
    assert RawPixels()(torch.zeros(2, 3, 24, 24)).shape == (2, 3, 24, 24)


def channel_means(images: Tensor) -> Tensor:
    return images.mean((2, 3))


def features_of_rank(rank: int, folder: Path) -> Features:
    loader = EvalLoader(folder, 5, EvalParams(32, 36), backend=Backend(device="cpu", num_threads=1))
    return extract_features(channel_means, loader, torch.device("cpu"))


@pytest.mark.distributed
def test_features_are_the_same_on_two_ranks(small_data: Path) -> None:
    folder = small_data / "val"
    alone = features_of_rank(0, folder)
    assert alone.targets.tolist() == image_folder(folder).labels.tolist()
    for together in run_ranks(2, features_of_rank, folder):
        assert torch.equal(together.values, alone.values)
        assert torch.equal(together.targets, alone.targets)


def recipe_of(data: Path, **options: int) -> Recipe:
    content = {
        "data": {"train": str(data / "train"), "num_threads": 1},
        "views": {"both": {"size_px": 32}},
        "model": {"backbone": "torchvision/shufflenet_v2_x0_5", "projector": [8, 8]},
        "run": {"output_dir": "unused"},
        "eval": {"knn_k": 5, **options},
    }
    return Recipe.model_validate(content)


def scores_of_rank(rank: int, data: Path) -> dict[str, dict[str, float] | None]:
    """Return the accuracies of a network whose BatchNorm has the statistics of the data on rank 0 only."""
    recipe = recipe_of(data)
    train, val = image_folder(data / "train"), image_folder(data / "val")
    cpu = torch.device("cpu")
    model = build_model(recipe)
    loader = EvalLoader(train, 36, recipe.preset.eval_params(), backend=Backend(device="cpu"), rank=0, world_size=1)
    calibrate_batch_norm(model.backbone, loader, cpu)
    if rank > 0:
        for buffer in model.buffers():
            buffer.fill_(100 * rank)
    return evaluate_finally(
        recipe,
        with_weights_of(model, build_model(recipe)),
        untrained=build_model(recipe),
        train=train,
        val=val,
        online=OnlineEvaluation(recipe, partial(build_model, recipe), train, val=val, device=cpu, probe=None),
        device=cpu,
    )


@pytest.mark.distributed
def test_two_ranks_evaluate_rank_0s_network(small_data: Path) -> None:
    alone = scores_of_rank(0, small_data)
    assert set(alone) == set(FINAL_METRICS)
    together, others = run_ranks(2, scores_of_rank, small_data)
    assert together == others, "each rank has the same numbers"
    networks = {"untrained", "calibrated", "pretrained"}
    for metric, scores in alone.items():
        accuracy = metric.endswith("top1")
        assert scores is not None
        assert set(scores) == networks | ({"raw"} if accuracy else set())
        assert together[metric] == (scores if accuracy else pytest.approx(scores, rel=1e-3))
        if metric == "view_retrieval_top1":
            assert scores["pretrained"] == scores["calibrated"] > 1 / 36
        elif accuracy:
            assert scores["pretrained"] == scores["calibrated"] > max(0.5, scores["untrained"])
        else:
            assert scores["calibrated"] > 1.05 * scores["untrained"] > 1


@pytest.mark.parametrize(("batch_size", "used"), [(1, 36), (5, 35), (16, 32), (35, 35), (256, 36)])
def test_the_baseline_is_calibrated_on_whole_batches(small_data: Path, batch_size: int, used: int) -> None:
    """A last batch of one image has no variance, and one of a few images would count as much as the others."""
    recipe = recipe_of(small_data, batch_size=batch_size)
    model, train = build_model(recipe), image_folder(small_data / "train")
    seen: list[int] = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    networks = _networks(recipe, build_model(recipe), model, train, torch.device("cpu"))
    assert [name for name, _ in networks] == ["untrained", "calibrated", "pretrained"]
    assert sum(seen) == used
    assert len(set(seen)) == 1 <= seen[0] - 1


def test_calibration_gives_batchnorm_the_data_s_statistics(small_data: Path) -> None:
    loader = EvalLoader(small_data / "train", 36, EvalParams(32, 36), backend=Backend(device="cpu"))
    (batch,) = list(loader)
    norm = nn.BatchNorm2d(3)
    calibrate_batch_norm(nn.Sequential(norm), loader, torch.device("cpu"))
    pixels = batch.images.double().transpose(0, 1).flatten(1)
    # Some processors add all pixels one after the other.
    spread, terms = pixels.std(1), pixels.shape[1]
    assert_rounded(norm.running_mean, pixels.mean(1), terms=terms, scale=spread, name="mean")
    assert_rounded(norm.running_var, pixels.var(1), terms=terms, scale=spread.square(), name="variance")
