"""An exported run."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.bt_plugin.formats.exports import KNN, exported

    summary = {"epochs": 12.0, "world_size": 2, "device": "cpu", "knn_top1": KNN, "val_images": 520}
    return exported(tmp_path_factory.mktemp("formats") / "run", summary, backbone="torchvision/resnet18")
