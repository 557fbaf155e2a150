"""Networks that stand after a prefix, or deep in a checkpoint: found where the prefix is clear, and named where not."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from bt_plugin.cli import main
from bt_plugin.errors import WeightsError
from bt_plugin.weights.read_weights import read_weights
from tests.bt_plugin.weights.foreign_weights import (
    IMAGES,
    byol,
    dino,
    features_of,
    lightly_dino,
    lightly_train,
    moco,
    moco_v3,
    other,
    resnet,
    saved,
    swav,
    under,
    vision_language,
    vissl,
)


@pytest.mark.parametrize(
    ("write", "left_out"),
    [
        (moco, r"everything not under state_dict\.encoder_q\.: state_dict\.encoder_k \(120 tensors\).*queue"),
        (moco_v3, r"not under state_dict\.base_encoder\.: state_dict\.momentum_encoder"),
        (vissl, r"not under classy_state_dict\.base_model\.model\.trunk\._feature_blocks\.: classy_state_dict"),
        (dino, r"not under teacher\.backbone\.: student \(121 tensors\), teacher \(1 tensor\)"),
        (byol, r"not under net\.: target_encoder \(120 tensors\), online_encoder"),
        (swav, r"^projection_head \(1 tensor\); prototypes \(1 tensor\)$"),
        (lightly_dino, r"not under state_dict\.teacher_backbone\.: state_dict\.student_backbone"),
        (lightly_train, r"not under state_dict\.embedding_model\.wrapped_model\._features\.: .*projection_head"),
        (vision_language, r"not under state_dict\.model\.visual\.: state_dict\.model \(1 tensor\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_network_is_found_behind_its_prefix(
    tmp_path: Path, write: Callable[[Path], tuple[Path, nn.Module]], left_out: str
) -> None:
    path, network = write(tmp_path)
    weights = read_weights(path)
    assert (weights.kind, weights.backbone_name) == ("state-dict", "torchvision/resnet18")
    assert re.search(left_out, "; ".join(weights.dropped)), weights.dropped
    with torch.no_grad():
        torch.testing.assert_close(features_of(weights), network(IMAGES))


@pytest.mark.parametrize("prefix", ["encoder_k", "encoder_k.", "module.encoder_k", "state_dict.module.encoder_k"])
def test_the_other_network_is_taken_where_it_is_named(tmp_path: Path, prefix: str) -> None:
    path, _ = moco(tmp_path)
    weights = read_weights(path, prefix=prefix)
    with torch.no_grad():
        torch.testing.assert_close(features_of(weights), other()(IMAGES))


def test_a_named_backbone_is_found_behind_its_prefix(tmp_path: Path) -> None:
    """A vision transformer of DINO, whose teacher has no wrapper."""
    teacher, student = (timm.create_model("vit_tiny_patch16_224") for _ in range(2))
    content = {"student": under("module.backbone.", student), "teacher": under("backbone.", teacher)}
    path = saved(content, tmp_path / "a.pth")
    weights = read_weights(path, "timm/vit_tiny_patch16_224")
    assert weights.backbone_name == "timm/vit_tiny_patch16_224"
    assert torch.equal(weights.backbone["cls_token"], teacher.cls_token)
    assert "the classifier, head.weight, head.bias" in weights.dropped
    for backbone in (None, "timm/vit_small_patch16_224"):
        message = r"begin with student \(152 tensors\), teacher .*Give the prefix .*--prefix"
        with pytest.raises(WeightsError, match=message):
            read_weights(path, backbone)


def test_networks_without_an_order_are_listed(tmp_path: Path) -> None:
    path = saved({"left": resnet().state_dict(), "right": other().state_dict()}, tmp_path / "a.pth")
    with pytest.raises(
        WeightsError, match=r"several networks \(under left\., right\.\)\. Choose one of them with --prefix"
    ):
        read_weights(path)
    with torch.no_grad():
        torch.testing.assert_close(features_of(read_weights(path, prefix="right")), other()(IMAGES))
    with pytest.raises(
        WeightsError, match=r"--prefix: no key of .*a\.pth begins with up\\x1b\. Its keys begin with left"
    ):
        read_weights(path, prefix="up\x1b")


def test_two_names_of_one_network_are_one(tmp_path: Path) -> None:
    network = resnet()
    path = saved({"a": network.state_dict(), "b": {"c": network.state_dict()}}, tmp_path / "a.pth")
    assert read_weights(path).dropped == ["everything not under a.: b (120 tensors)"]


def test_deep_and_wide_checkpoints_end(tmp_path: Path) -> None:
    """Dictionaries that contain each other a million times, and thousands of prefixes."""
    inner: dict[str, object] = {"x": torch.ones(1)}
    for _ in range(60):
        inner = {"a": inner, "b": inner}
    wide = {f"n{number}.conv1.weight": torch.ones(1) for number in range(5000)}
    wide |= {f"n{number}.layer1.0.conv1.weight": torch.ones(1) for number in range(5000)}
    for content in ({"deep": inner}, wide):
        with pytest.raises(WeightsError, match=r"a\.pth has (no tensors under|keys and shapes of no ResNet)"):
            read_weights(saved(content, tmp_path / "a.pth"))


def test_the_command_takes_a_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = moco(tmp_path)
    folder = tmp_path / "out"
    assert main(["import", str(path), "-o", str(folder), "--prefix", "encoder_k"]) == 0
    assert "left out  everything not under state_dict.encoder_k." in capsys.readouterr().out
    source = json.loads((folder / "model.json").read_text())["source"]
    assert source["dropped"][0].startswith("everything not under state_dict.encoder_k.")
    assert main(["import", str(folder), "-o", str(tmp_path / "b"), "--prefix", "encoder_k"]) == 2
    assert "--prefix: " in capsys.readouterr().err


def test_whole_networks_beside_the_weights_are_saved_alone(tmp_path: Path) -> None:
    """As LightlyTrain's checkpoints have them; the command keeps every level with tensors."""
    network = resnet()
    content = {"student": under("module.backbone.", other()), "teacher": network, "optimizer": {"state": {0: {}}}}
    path = saved(content, tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match="contains Python objects besides tensors") as refused:
        read_weights(path)
    exec(shlex.split(str(refused.value).splitlines()[-1])[-1], {})
    weights = read_weights(tmp_path / "a_weights.pth", prefix="teacher")
    with torch.no_grad():
        torch.testing.assert_close(features_of(weights), network(IMAGES))
