"""Checkpoints as the official code, Lightly and solo-learn write them: the same features come out."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightly.models import ResNetGenerator
from lightly.models.modules import BarlowTwinsProjectionHead, SimCLRProjectionHead
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from bt_plugin.cli import main
from bt_plugin.errors import WeightsError
from bt_plugin.models.backbones import build_backbone
from bt_plugin.weights.architecture import _RESNETS, fit_backbone
from bt_plugin.weights.export_folder import load_backbone
from bt_plugin.weights.read_weights import read_weights
from tests.bt_plugin.weights.foreign_weights import (
    IMAGES,
    Network,
    embeddings_of,
    features_of,
    lightly,
    lightly_benchmark,
    lightly_compiled,
    lightly_lightning,
    lightly_old,
    lightning_checkpoint,
    linears,
    official,
    randomised,
    resnet,
    saved,
    solo_learn,
    solo_learn_old,
)


@pytest.mark.parametrize(
    ("write", "kind", "dropped"),
    [
        (official, "official", "epoch; optimizer; bn (3 tensors)"),
        (lightly, "lightly", "the bias of the projector's layer 6, which does not change the loss"),
        (lightly_compiled, "lightly", "the bias of the projector's layer 6, which does not change the loss"),
        (lightly_old, "lightly", "the bias of the projector's layer 6, which does not change the loss"),
        (lightly_lightning, "lightly", "lr_schedulers; the bias of the projector's layer 6"),
        (lightly_benchmark, "lightly", "online_classifier (2 tensors); the bias"),
        (solo_learn, "solo-learn", "epoch; classifier (2 tensors); the bias"),
        (solo_learn_old, "solo-learn", "classifier (2 tensors); the bias"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_checkpoint_gives_its_features_and_embeddings(
    tmp_path: Path, write: Callable[[Path], tuple[Path, nn.Module]], kind: str, dropped: str
) -> None:
    path, network = write(tmp_path)
    weights = read_weights(path)
    assert (weights.kind, weights.backbone_name, weights.in_chans) == (kind, "torchvision/resnet18", 3)
    assert weights.stem == ("small" if write is lightly_lightning else "standard")
    assert dropped in "; ".join(weights.dropped)
    projector = next(part for name, part in network.named_children() if name.startswith("proj"))
    with torch.no_grad():
        features = network.backbone(IMAGES).flatten(1)
        embeddings = projector(features)
    torch.testing.assert_close(features_of(weights), features)
    last = [layer for layer in projector.modules() if isinstance(layer, nn.Linear)][-1]
    seen = embeddings if last.bias is None else embeddings - last.bias
    torch.testing.assert_close(embeddings_of(weights, features), seen)


def test_a_bias_before_a_batchnorm_moves_into_its_mean(tmp_path: Path) -> None:
    path, network = solo_learn(tmp_path)
    moved = read_weights(path).projector
    assert moved is not None
    assert torch.equal(moved["1.running_mean"], network.projector[1].running_mean - network.projector[0].bias)
    assert torch.equal(moved["4.weight"], network.projector[4].weight)


def half(module: nn.Module) -> dict[str, Tensor]:
    return module.half().state_dict()


def without_counters(module: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "old.pt"])
def test_a_plain_state_dict_whatever_wrote_it(tmp_path: Path, name: str) -> None:
    source, dim = (resnet("resnet50"), 2048) if name == "a.pth" else (resnet("resnet18"), 512)
    if name == "a.safetensors":
        save_file(source.state_dict(), tmp_path / name)
    else:
        saved(source.state_dict(), tmp_path / name, _use_new_zipfile_serialization=name != "old.pt")
    weights = read_weights(tmp_path / name)
    assert (weights.kind, weights.feature_dim) == ("state-dict", dim)
    assert weights.backbone_name == f"torchvision/resnet{50 if name == 'a.pth' else 18}"
    assert weights.projector is None
    assert weights.dropped == []
    with torch.no_grad():
        torch.testing.assert_close(features_of(weights), source(IMAGES))


def test_variants_of_a_state_dict(tmp_path: Path) -> None:
    """A classifier, float16, no counters, a gray and a small stem, DataParallel."""
    path, source = tmp_path / "a.pth", resnet()
    with torch.no_grad():
        expected = source(IMAGES)
    for state in (without_counters(source), {f"module.model.{k}": v for k, v in source.state_dict().items()}):
        torch.testing.assert_close(features_of(read_weights(saved(state, path))), expected)
    weights = read_weights(
        saved(source.state_dict() | {"fc.weight": torch.ones(9, 512), "fc.bias": torch.ones(9)}, path)
    )
    assert weights.dropped == ["the classifier, fc.weight, fc.bias"]
    torch.testing.assert_close(features_of(weights), expected)
    weights = read_weights(saved(half(source), path))
    assert {value.dtype for value in weights.backbone.values()} == {torch.float32, torch.int64}
    gray = resnet(in_chans=1)
    weights = read_weights(saved(gray.state_dict(), path))
    assert weights.in_chans == 1
    with torch.no_grad():
        torch.testing.assert_close(features_of(weights, IMAGES[:, :1]), gray(IMAGES[:, :1]))


def test_a_resnet_of_timm_is_torchvisions(tmp_path: Path) -> None:
    source = randomised(timm.create_model("resnet18", num_classes=7))
    weights = read_weights(saved({"arch": "resnet18", "state_dict": source.state_dict()}, tmp_path / "a.pth"))
    assert weights.backbone_name == "torchvision/resnet18"
    with torch.no_grad():
        torch.testing.assert_close(features_of(weights), source.forward_head(source.forward_features(IMAGES), True))


@pytest.mark.parametrize("name", _RESNETS)
def test_every_resnet_is_told_by_its_shapes(name: str) -> None:
    with torch.device("meta"):
        state = models.get_model(name, weights=None).state_dict()
    assert fit_backbone(state, None, path=Path("a.pth")).name == f"torchvision/{name}"


def test_a_backbone_can_be_named(tmp_path: Path) -> None:
    source = randomised(timm.create_model("resnet10t", num_classes=0, in_chans=1))
    path = saved(source.state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        WeightsError, match=r"a.pth has keys .* no ResNet of torchvision .*Give its backbone with --backbone"
    ):
        read_weights(path)
    with pytest.raises(WeightsError, match=r"not fit the backbone timm/resnet18: it lacks conv1.weight.*; it also has"):
        read_weights(path, "timm/resnet18")
    with pytest.raises(
        WeightsError, match=r"--backbone: backbone timm/resnet10 does not exist; did you mean resnet10t"
    ):
        read_weights(path, "timm/resnet10")
    weights = read_weights(path, "timm/resnet10t")
    assert (weights.backbone_name, weights.in_chans) == ("timm/resnet10t", 1)
    with torch.no_grad():
        torch.testing.assert_close(features_of(weights, IMAGES[:, :1]), source(IMAGES[:, :1]))
    small = saved(resnet(small=True).state_dict(), path)
    assert read_weights(small, "timm/resnet18").stem == "small"
    other = saved(models.mobilenet_v3_small().state_dict(), path)
    weights = read_weights(other, "torchvision/mobilenet_v3_small")
    assert weights.dropped == ["the classifier, classifier.3.weight, classifier.3.bias"]


def test_another_projector_is_left_out(tmp_path: Path) -> None:
    head = SimCLRProjectionHead(512, 24, 8)
    weights = read_weights(saved(Network(backbone=resnet(), projection_head=head).state_dict(), tmp_path / "a.pth"))
    assert weights.projector is None
    assert "the projector, because its layers differ" in weights.dropped[0]


def test_solo_learns_padding_is_told(tmp_path: Path) -> None:
    source = resnet(small=True)
    network = Network(backbone=source, projector=linears([512, 9, 8, 7], True), classifier=nn.Linear(512, 3))
    weights = read_weights(saved({"state_dict": network.state_dict()}, tmp_path / "a.ckpt"))
    assert any("padding of 2" in what and "pad(images, (1, 1, 1, 1))" in what for what in weights.dropped)
    source.conv1.padding = (2, 2)
    with torch.no_grad():
        torch.testing.assert_close(features_of(weights, nn.functional.pad(IMAGES, (1, 1, 1, 1))), source(IMAGES))
        assert not torch.allclose(features_of(weights), source(IMAGES), rtol=0.1)


def test_lightlys_own_resnet_is_refused_for_it_has_other_features(tmp_path: Path) -> None:
    generated = randomised(ResNetGenerator("resnet-18"))
    cut = nn.Sequential(*list(generated.children())[:-1], nn.AdaptiveAvgPool2d(1))
    renamed = {key.replace("shortcut", "downsample"): value for key, value in generated.state_dict().items()}
    ours = build_backbone("torchvision/resnet18", stem="small").module.eval()
    ours.load_state_dict({key: value for key, value in renamed.items() if not key.startswith("linear")})
    with torch.no_grad():
        assert not torch.allclose(cut(IMAGES).flatten(1), ours(IMAGES), rtol=0.1)
    network = Network(backbone=cut, projection_head=BarlowTwinsProjectionHead(512, 24, 8))
    with pytest.raises(WeightsError, match=r"ResNetGenerator in nn.Sequential, which leaves out the ReLU"):
        read_weights(saved(network.state_dict(), tmp_path / "a.pth"))
    cut = nn.Sequential(*models.densenet121().features.children())
    with pytest.raises(WeightsError, match=r"in nn.Sequential that is no ResNet"):
        read_weights(saved(Network(backbone=cut).state_dict(), tmp_path / "b.pth"))


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, new_format: bool) -> None:
    target = tmp_path / "was_here"
    content = {"state_dict": resnet().state_dict(), "callbacks": Hostile(target)}
    path = saved(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(
        WeightsError, match=r"a.ckpt is refused: loading it would call posix.system.*\.safetensors file"
    ):
        read_weights(path)
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists(), "it would have been run"


@pytest.mark.parametrize("whole_model", [True, False])
def test_python_objects_are_refused_with_a_way_out(tmp_path: Path, whole_model: bool) -> None:
    source, path = resnet(), tmp_path / "it's a.ckpt"
    if whole_model:
        saved(source, path)
    else:
        lightning_checkpoint(Network(backbone=source), path, config=argparse.Namespace(lr=0.1))
    named = "torch.nn.modules.conv.Conv2d" if whole_model else r"\(argparse.Namespace\)"
    with pytest.raises(WeightsError, match=rf"contains Python objects besides tensors .*{named}") as refused:
        read_weights(path)
    *command, program = shlex.split(str(refused.value).splitlines()[-1])
    assert command == ["python", "-c"]
    exec(program, {})
    with torch.no_grad():
        torch.testing.assert_close(features_of(read_weights(tmp_path / "it's a_weights.pth")), source(IMAGES))


def test_what_is_no_weights(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello world")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.safetensors").write_text("hello world")
    whole = saved(resnet().state_dict(), tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    for name in ("text.pth", "empty.pth", "half.pth"):
        with pytest.raises(WeightsError, match=rf"{name} is not a file of torch.save or safetensors, or is damaged"):
            read_weights(tmp_path / name)
    with pytest.raises(WeightsError, match="is not a safetensors file, or is damaged"):
        read_weights(tmp_path / "text.safetensors")
    with pytest.raises(WeightsError, match=r"no tensors under state_dict.*it has epoch, note"):
        read_weights(saved({"epoch": 3, "note": "hello"}, tmp_path / "a.pth"))
    with pytest.raises(WeightsError, match="contains a Tensor; it must be"):
        read_weights(saved(torch.ones(1), tmp_path / "a.pth"))
    with pytest.raises(WeightsError, match="does not exist"):
        read_weights(tmp_path / "nowhere.pth")
    with pytest.raises(WeightsError, match=r"has no model\.json and no backbone\.safetensors"):
        read_weights(tmp_path)


def test_import_writes_what_an_export_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, network = official(tmp_path)
    folder = tmp_path / "new" / "folder"
    assert main(["import", str(path), "-o", str(folder)]) == 0
    output = capsys.readouterr().out
    assert "official, torchvision/resnet18, stem standard, in_chans 3, projector" in output
    assert "left out  epoch; optimizer; bn (3 tensors)" in output
    assert sorted(file.name for file in folder.parent.rglob("*")) == [
        "backbone.safetensors", "folder", "model.json", "projector.safetensors",
    ]  # fmt: skip
    assert {oct(file.stat().st_mode) for file in folder.iterdir()} == {oct(path.stat().st_mode)}
    description = json.loads((folder / "model.json").read_text())
    assert description["method"] == "barlow_twins"
    assert description["source"]["kind"] == "official"
    assert description["model"]["projector"] == [24, 16, 8]
    assert (description["feature_dim"], description["embedding_dim"]) == (512, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_backbone(folder).module.eval()(IMAGES), network.backbone(IMAGES))
    again = read_weights(folder)
    assert again.kind == "bt-plugin"
    assert set(again.projector or {}) == set(network.projector.state_dict())

    assert main(["import", str(path), "-o", str(folder)]) == 2
    assert "folder exists, and is not overwritten. Choose another name" in capsys.readouterr().err


def test_import_without_a_projector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(resnet().state_dict(), tmp_path / "resnet18.pth")
    monkeypatch.chdir(tmp_path)
    assert main(["import", "resnet18.pth"]) == 0
    folder = Path("imported/resnet18")
    assert sorted(file.name for file in folder.iterdir()) == ["backbone.safetensors", "model.json"]
    description = json.loads((folder / "model.json").read_text())
    assert (description["method"], description["embedding_dim"]) == (None, None)


def test_a_run_needs_no_import(small_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (small_export, small_export / "export"):
        assert main(["import", str(source), "-o", str(tmp_path / "out")]) == 2
        assert f"needs no import, because {small_export}/export already has this layout" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
