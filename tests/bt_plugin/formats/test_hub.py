"""The folder for the Hugging Face Hub, and its model card."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from torchvision import models

from bt_plugin.config.optim import Optim
from bt_plugin.config.recipe import Recipe
from bt_plugin.formats import convert
from bt_plugin.formats.card import _evaluation, _rates, _shortened
from bt_plugin.formats.hf import crop_pct
from bt_plugin.weights.export_folder import write_imported_export
from bt_plugin.weights.read_weights import read_weights
from tests.bt_plugin.formats.exports import exported, features, images_for, source_features


@pytest.mark.parametrize("in_chans", [3, 1])
def test_timm_loads_the_folder_for_the_hub(tmp_path: Path, in_chans: int) -> None:
    run = exported(tmp_path / "run", backbone="torchvision/resnet18", in_chans=in_chans)
    folder, usage = convert(run, "hf", tmp_path / "card")
    model = eval(usage, {"timm": timm})
    images = images_for(in_chans)
    torch.testing.assert_close(features(model, images), source_features(run, images), rtol=1e-4, atol=1e-4)
    classifier = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=5)
    assert torch.equal(classifier.conv1.weight, model.conv1.weight)
    assert classifier.fc.out_features == 5

    view = json.loads((run / "export" / "model.json").read_text())["eval_view"]
    data = timm.data.resolve_model_data_config(model)
    assert tuple(data["input_size"]) == (in_chans, view["size_px"], view["size_px"])
    assert data["interpolation"] == view["interpolation"]
    if in_chans == 3:
        assert (list(data["mean"]), list(data["std"])) == (view["mean"], view["std"])
        resize, crop, *_ = timm.data.create_transform(**data, is_training=False).transforms
        picture = resize(Image.new("RGB", (300, 200)))
        assert min(picture.size) == view["resize_px"]
        assert crop(picture).size == (view["size_px"], view["size_px"])
    else:
        assert data["mean"] == pytest.approx([np.mean(view["mean"])])


def test_the_crop_is_right_for_every_size() -> None:
    for size in range(16, 300, 7):
        for resize in range(size, size + 50):
            assert int(size / crop_pct(size, resize)) == resize


def test_the_model_card_says_what_the_files_say(run18: Path, tmp_path: Path) -> None:
    folder, _ = convert(run18, "hf", tmp_path / "card")
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "timm"
    assert "barlow-twins" in front["tags"]
    assert "license" not in front
    assert "/home/somebody" not in card, "an absolute path tells more than its owner may want"
    for row in (
        "| data | pictures/train |",
        "| epochs | 12 of 1000 |",
        "| steps | 144 |",
        "| global batch | 2048 |",
        "| projector | 16 - 8 |",
        "| lambda | 0.0051 |",
        "| views | barlow_twins, 48 px |",
        "| optimizer | lars |",
        "| base learning rate of weights, of biases | 0.2, 0.0003 |",
        "| seed | 7 |",
        "| ranks | 2 |",
        "| network | kNN top-1 of 520 images |",
        "| calibrated network | 76.9% (73.1% to 80.3%) |",
        "| pretrained network | 84.0% (80.6% to 86.9%) |",
        "Labeled images: pictures/val. kNN: k 20, temperature 0.1.",
        f"| torch | {version('torch')} |",
    ):
        assert row in card
    assert "mean (0.485, 0.456, 0.406)" in card


@pytest.mark.parametrize(
    ("results", "sentences"),
    [
        ({"view_retrieval_top1": {"raw": 0.5}, "view_retrieval_images": 4}, {"View"}),
        ({"knn_top1": {"raw": 0.5}, "val_images": 4}, {"Labeled", "kNN:"}),
        ({"linear_top1": {"raw": 0.5}, "val_images": 4}, {"Labeled"}),
    ],
)
def test_a_model_card_explains_the_accuracies_that_it_has(results: dict[str, Any], sentences: set[str]) -> None:
    content = {"data": {"train": "mine"}, "run": {"output_dir": "run"}}
    if "val_images" in results:
        content["data"]["val"] = "mine/val"
    text = _evaluation(Recipe.model_validate(content), results)
    explained = text.rpartition("|\n")[2]
    assert {word for word in ("Labeled", "kNN:", "View") if word in explained} == sentences


def test_a_model_card_has_the_rate_of_its_optimizer() -> None:
    assert _rates(Optim(name="adamw").model_dump(mode="json")) == {"base learning rate": "0.00015"}
    assert _rates({}) == {}, "an older run, or imported weights"


def test_a_model_card_names_each_source_by_the_end_of_its_path() -> None:
    assert _shortened("/home/somebody/set/train") == "set/train"
    assert _shortened(("/home/somebody/set/train", "more/shards", "/d/e/c.tar")) == "[set/train, more/shards, e/c.tar]"


def test_a_model_card_invents_nothing(tmp_path: Path) -> None:
    run = exported(tmp_path / "run", backbone="torchvision/resnet18")
    card = (convert(run, "hf")[0] / "README.md").read_text()
    assert "The run has no evaluation." in card
    assert "| epochs |" not in card
    torch.save(models.resnet18().state_dict(), tmp_path / "a.pth")
    write_imported_export(read_weights(tmp_path / "a.pth"), tmp_path / "imported", tmp_path / "a.pth")
    card = (convert(tmp_path / "imported", "hf")[0] / "README.md").read_text()
    assert "imported from a.pth, in the layout state-dict" in card
    assert "The normalization of the images is unknown" in card
    assert "Training" not in card
    assert "barlow" not in card.lower()
    config = json.loads((tmp_path / "imported" / "resnet18_hf" / "config.json").read_text())
    assert "mean" not in config["pretrained_cfg"]
