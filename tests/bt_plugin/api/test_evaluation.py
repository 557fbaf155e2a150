"""Evaluations and weights from Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder

import bt_plugin
from bt_plugin.errors import RecipeError, WeightsError
from dali_pipelines import image_folder


def test_embeddings_are_the_features_of_the_backbone(trained_run: Path, small_data: Path, tmp_path: Path) -> None:
    """Images from a path, and from a dataset in another order."""
    folder = small_data / "val"
    found = bt_plugin.embed(trained_run, folder, tmp_path / "val.npz")
    assert found.classes == ("chelsea", "coffee", "rocket")
    assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.names == list(image_folder(folder).names)
    with np.load(tmp_path / "val.npz") as stored:
        np.testing.assert_array_equal(stored["features"], found.features)
    order = torch.randperm(12).tolist()
    part = torch.utils.data.Subset(ImageFolder(folder), order)
    again = bt_plugin.embed(trained_run, part)
    assert again.labels.tolist() == found.labels[order].tolist()
    np.testing.assert_allclose(again.features, found.features[order], atol=1e-5)
    backbone, feature_dim = bt_plugin.load_backbone(trained_run)
    assert found.features.shape == (12, feature_dim)
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, feature_dim)


def test_an_evaluation_is_that_of_the_run(trained_run: Path) -> None:
    summary = (trained_run / "summary.json").read_text()
    found = bt_plugin.evaluate(str(trained_run), overrides={"knn.k": 5, "run.output_dir": trained_run.parent / "eval"})
    assert f'"pretrained": {found["top1"]}' in summary


def test_what_cannot_be_evaluated_is_named(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="method: 'svm' is not allowed; it must be knn, linear or finetune"):
        bt_plugin.evaluate(trained_run, "svm")
    with pytest.raises(WeightsError, match=r"has no model\.json"):
        bt_plugin.load_backbone(tmp_path)
    with pytest.raises(WeightsError, match="needs no import"):
        bt_plugin.import_weights(trained_run, tmp_path / "imported")


def test_a_state_dict_is_imported(tmp_path: Path) -> None:
    network, _ = bt_plugin.build_backbone("torchvision/resnet18")
    torch.save(network.state_dict(), tmp_path / "r18.pth")
    folder, weights = bt_plugin.import_weights(tmp_path / "r18.pth", tmp_path / "imported")
    assert weights.backbone_name == "torchvision/resnet18"
    loaded = bt_plugin.load_backbone(folder).module.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())
