"""The cached probe compared with scikit-learn's, on the same features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bt_plugin.config.evaluation_recipe import Linear
from bt_plugin.evaluation.features import Features, extract_features
from bt_plugin.evaluation.linear import linear_on_features
from bt_plugin.models.backbones import build_backbone
from bt_plugin.runs.accuracies import wilson
from dali_pipelines import Backend, EvalLoader, EvalParams


def blobs(n: int, seed: int) -> Features:
    """Four classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    centres = 0.6 * torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 4, (n,), generator=generator)
    scale = torch.logspace(-2, 2, 16)
    return Features(scale * (centres[targets] + torch.randn(n, 16, generator=generator)), targets)


def sklearns(train: Features, val: Features) -> float:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    probe.fit(train.values.numpy(), train.targets.numpy())
    return float(probe.score(val.values.numpy(), val.targets.numpy()))


def test_it_agrees_with_logistic_regression() -> None:
    train, val = blobs(2000, 1), blobs(2000, 2)
    result = linear_on_features(train, val, options=Linear(epochs=20), seed=0)
    low, high = wilson(result.accuracy.top1, result.accuracy.n)
    assert 0.5 < result.accuracy.top1 / 2000 < 0.95
    assert low <= sklearns(train, val) <= high
    assert max(result.chosen_by, key=lambda lr: result.chosen_by[lr]) == result.lr


def test_it_agrees_on_a_backbone_of_torchvision(demo_data: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("torchvision/resnet18").module.eval()
    params, backend = EvalParams(48, 55), Backend(device="cpu")
    train, val = (
        extract_features(backbone, EvalLoader(demo_data / split, 128, params, backend=backend), torch.device("cpu"))
        for split in ("train", "val")
    )
    result = linear_on_features(train, val, options=Linear(epochs=30), seed=0)
    low, high = wilson(result.accuracy.top1, result.accuracy.n)
    assert low <= sklearns(train, val) <= high


def test_the_validation_images_choose_nothing() -> None:
    train, val = blobs(400, 1), blobs(100, 2)
    wrong = Features(val.values, (val.targets + 1) % 4)
    results = [linear_on_features(train, each, options=Linear(epochs=3), seed=0) for each in (val, wrong)]
    assert results[0].chosen_by == results[1].chosen_by
    assert results[0].accuracy.top1 > results[1].accuracy.top1


def test_a_rate_that_is_too_high_is_not_chosen() -> None:
    train = blobs(400, 1)
    options = Linear(epochs=3, cached_lrs=(0.1, 1e6))
    result = linear_on_features(train, train, options=options, seed=0)
    assert result.lr == 0.1
    assert result.chosen_by[0.1] > result.chosen_by[1e6]


@pytest.mark.parametrize("n", [2, 9])
def test_a_handful_of_images_is_enough(n: int) -> None:
    few = blobs(n, 3)
    assert linear_on_features(few, few, options=Linear(epochs=1), seed=0).accuracy.n == n
