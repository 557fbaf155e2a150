"""Each format is loaded by the library that it is for, and gives the features of its source."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models import load_checkpoint
from torch import nn
from torchvision import models

from bt_plugin.cli import main
from bt_plugin.errors import WeightsError
from bt_plugin.formats import FORMATS, convert
from bt_plugin.formats.detectron2 import detectron2_key
from bt_plugin.formats.onnx import OPSET
from bt_plugin.models.backbones import build_backbone
from bt_plugin.weights.export_folder import write_imported_export
from bt_plugin.weights.read_weights import read_weights
from tests.bt_plugin.formats.exports import exported, features, images_for, source_features


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `import` makes it: neither a run nor a view is known."""
    folder = tmp_path_factory.mktemp("imported")
    torch.save(models.mobilenet_v3_small().state_dict(), folder / "a.pth")
    weights = read_weights(folder / "a.pth", "torchvision/mobilenet_v3_small")
    write_imported_export(weights, folder / "mobilenet", folder / "a.pth")
    return folder / "mobilenet"


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_torchvision_loads_it(tmp_path: Path, source: str) -> None:
    run = exported(tmp_path / "run", backbone=f"{source}/resnet50")
    path, usage = convert(run, "torchvision")
    assert path == run / "export" / "resnet50_torchvision.pth"
    assert f"torch.load({str(path)!r})" in usage
    model = models.resnet50()
    missing = model.load_state_dict(torch.load(path), strict=False)
    assert missing.missing_keys == ["fc.weight", "fc.bias"]
    assert missing.unexpected_keys == []
    model.fc = nn.Identity()
    torch.testing.assert_close(features(model, images_for()), source_features(run, images_for()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_timm_loads_it(run18: Path, tmp_path: Path, name: str) -> None:
    path, usage = convert(run18, "timm", tmp_path / name)
    expected = source_features(run18, images_for())
    model = timm.create_model("resnet18", num_classes=0)
    load_checkpoint(model, str(path))
    torch.testing.assert_close(features(model, images_for()), expected, rtol=1e-4, atol=1e-4)
    model = eval(usage, {"timm": timm})
    torch.testing.assert_close(features(model, images_for()), expected, rtol=1e-4, atol=1e-4)


def test_safetensors_say_how_to_build_the_model(run18: Path, tmp_path: Path) -> None:
    path, _ = convert(run18, "safetensors", tmp_path / "a.safetensors")
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header == {"format": "pt", "backbone": "torchvision/resnet18", "stem": "standard", "in_chans": "3"}
    module = build_backbone(header["backbone"], stem=header["stem"], in_chans=int(header["in_chans"])).module
    module.load_state_dict(load_file(path))
    assert torch.equal(features(module, images_for()), source_features(run18, images_for()))


@pytest.fixture(scope="module")
def onnx_file(run18: Path) -> Path:
    return convert(run18, "onnx", run18.parent / "onnx" / "a.onnx")[0]


@pytest.mark.parametrize("count", [1, 5])
def test_onnxruntime_runs_it_for_any_batch(run18: Path, onnx_file: Path, count: int) -> None:
    import onnx
    import onnxruntime

    images = images_for(count=count)
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    (found,) = onnxruntime.InferenceSession(onnx_file).run(["features"], {"images": images.numpy()})
    expected = source_features(run18, images).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert [file.name for file in onnx_file.parent.iterdir()] == ["a.onnx"], "the weights are in it"


@pytest.mark.parametrize("backbone", ["timm/test_resnet", "timm/test_vit"])
def test_torch_runs_its_own_program_for_any_batch(tmp_path: Path, backbone: str) -> None:
    run = exported(tmp_path / "run", size_px=160 if "vit" in backbone else 48, backbone=backbone)
    path, _ = convert(run, "torch-export")
    for count in (1, 5):
        images = torch.randn(count, 3, 160, 160) if "vit" in backbone else images_for(count=count)
        found = torch.export.load(path).module()(images).detach()
        torch.testing.assert_close(found, source_features(run, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_other_features_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    """No program is exact enough for a tolerance below zero."""
    run = exported(tmp_path / "run", backbone="timm/test_resnet")
    monkeypatch.setattr("bt_plugin.formats.exported.TOLERANCE", -1.0)
    with pytest.raises(
        WeightsError, match=rf"--to {to}: its features differ from torch's by up to .*\. Use --to safetensors"
    ):
        convert(run, to)
    assert {file.name for file in (run / "export").iterdir()} == {
        "backbone.safetensors", "projector.safetensors", "model.json",
    }  # fmt: skip


def read_pickle(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        content: dict[str, Any] = pickle.load(file, encoding="latin1")
    return content


def test_detectron2s_layout(run18: Path, tmp_path: Path) -> None:
    """Checked by hand with detectron2 at 02b5c4e: its checkpointer loads ResNet-18, 50, wide 50 and ResNeXt-50 into
    build_resnet_backbone under the printed configuration with no key missing, its features of res5 equal torchvision's
    bit for bit, and a Faster R-CNN finds the weights for its backbone.bottom_up."""
    path, usage = convert(run18, "detectron2", tmp_path / "a.pkl")
    content = read_pickle(path)
    assert (content["__author__"], content["matching_heuristics"]) == ("bt-plugin", True)
    source = load_file(run18 / "export" / "backbone.safetensors")
    assert np.array_equal(content["model"]["stem.conv1.norm.running_var"], source["bn1.running_var"].numpy())
    assert len(content["model"]) == sum(value.ndim > 0 for value in source.values())
    for ours, theirs in {
        "conv1.weight": "stem.conv1.weight",
        "bn1.bias": "stem.conv1.norm.bias",
        "layer1.0.conv2.weight": "res2.0.conv2.weight",
        "layer4.1.bn2.running_mean": "res5.1.conv2.norm.running_mean",
        "layer2.0.downsample.0.weight": "res3.0.shortcut.weight",
        "layer2.0.downsample.1.running_var": "res3.0.shortcut.norm.running_var",
        "layer3.5.bn3.weight": "res4.5.conv3.norm.weight",
    }.items():
        assert detectron2_key(ours) == theirs
    model = yaml.safe_load(usage)["MODEL"]
    assert model["WEIGHTS"] == str(path)
    assert model["RESNETS"] == {
        "DEPTH": 18, "NUM_GROUPS": 1, "WIDTH_PER_GROUP": 64, "STRIDE_IN_1X1": False, "RES2_OUT_CHANNELS": 64,
    }  # fmt: skip
    assert model["PIXEL_MEAN"] == [123.675, 116.28, 103.53]


def test_detectron2_loads_it(tmp_path: Path) -> None:
    reason = "detectron2 is not installed; it is not on PyPI"
    checkpoint = pytest.importorskip("detectron2.checkpoint", reason=reason)
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    run = exported(tmp_path / "run", backbone="torchvision/resnet50")
    path, usage = convert(run, "detectron2")
    (tmp_path / "config.yaml").write_text(usage)
    config = get_cfg()
    config.merge_from_file(str(tmp_path / "config.yaml"))
    config.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    model = build_resnet_backbone(config, ShapeSpec(channels=3))
    assert set(read_pickle(path)["model"]) == set(model.state_dict())
    checkpoint.DetectionCheckpointer(model).load(config.MODEL.WEIGHTS)
    images = images_for()
    with torch.no_grad():
        found = model.eval()(images)["res5"].mean((2, 3))
    torch.testing.assert_close(found, source_features(run, images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "to", "named"),
    [
        ({"backbone": "torchvision/shufflenet_v2_x0_5"}, "timm", "timm has no model with the layers of"),
        ({"backbone": "torchvision/shufflenet_v2_x0_5"}, "hf", "timm has no model with the layers of"),
        ({"backbone": "timm/resnet10t"}, "torchvision", "torchvision has no model with the layers of"),
        (
            {"backbone": "timm/resnet10t"},
            "detectron2",
            "none of detectron2's ResNets, resnet18, .*Use --to torch-export",
        ),
        ({"backbone": "torchvision/resnet18", "stem": "small"}, "detectron2", "with stem: small is none of"),
        (
            {"backbone": "torchvision/resnet18", "args": {"groups": 1}},
            "detectron2",
            "with stem: standard and args: {'groups': 1} is none of",
        ),
        (
            {"backbone": "torchvision/resnet18", "stem": "small"},
            "timm",
            "timm has no .* with stem: small. Use --to safetensors",
        ),
        (
            {"backbone": "torchvision/resnet18", "in_chans": 1},
            "torchvision",
            "take 3 channels, but this one takes 1. Use --to timm",
        ),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, model: dict[str, Any], to: str, named: str) -> None:
    run = exported(tmp_path / "run", **model)
    with pytest.raises(WeightsError, match=rf"--to {'timm' if to == 'hf' else to}: .*{named}"):
        convert(run, to)
    assert not any(path.name.startswith(".") for path in (run / "export").iterdir())


def test_equal_keys_are_not_enough(run18: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of the same name and layers, with another nonlinearity."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, act_layer=nn.ELU, **options))
    with pytest.raises(WeightsError, match="has the keys of torchvision/resnet18, but other features"):
        convert(run18, "timm", tmp_path / "a.pth")


@pytest.mark.parametrize("to", FORMATS)
def test_the_command_overwrites_nothing(run18: Path, tmp_path: Path, capsys: Any, to: str) -> None:
    path = tmp_path / "there"
    path.write_text("mine")
    assert main(["export", str(run18), "--to", to, "-o", str(path)]) == 2
    assert f"-o: {path} exists, and is not overwritten" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_the_command(run18: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "a.safetensors"
    assert main(["export", str(run18 / "export"), "--to", "safetensors", "-o", str(path)]) == 0
    assert f"{path} is written. To load it:" in capsys.readouterr().out
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]
    for to, out, named in (
        ("timm", "a.bin", "must end in .safetensors or .pth"),
        ("torch-export", "a.bin", "must end in .pt2"),
    ):
        assert main(["export", str(run18), "--to", to, "-o", str(tmp_path / out)]) == 2
        assert named in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--to", "onnx"]) == 2
    assert (
        "has no model.json and no backbone.safetensors. Give the directory of a finished run" in capsys.readouterr().err
    )
    with pytest.raises(WeightsError, match="--to: 'tensorrt' is not allowed"):
        convert(run18, "tensorrt")


@pytest.mark.parametrize(
    ("to", "package", "remedy"),
    [
        ("onnx", "onnxruntime", "cannot import onnxruntime. Run pip install onnx onnxscript onnxruntime"),
        ("onnx", "onnxscript", "cannot import onnxscript. Run pip install"),
        ("timm", "timm", "pip install timm"),
    ],
)
def test_a_missing_package_is_named(
    run18: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, package: str, remedy: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=remedy):
        convert(run18, to, tmp_path / "a.pth")


def test_imported_weights_are_converted(mobilenet: Path, tmp_path: Path) -> None:
    path, _ = convert(mobilenet, "torchvision", tmp_path / "a.pth")
    missing = models.mobilenet_v3_small().load_state_dict(torch.load(path), strict=False)
    assert missing.missing_keys == ["classifier.3.weight", "classifier.3.bias"]
    assert missing.unexpected_keys == []
    with pytest.raises(WeightsError, match="timm has no model with the layers of torchvision/mobilenet_v3_small"):
        convert(mobilenet, "timm", tmp_path / "a.safetensors")
