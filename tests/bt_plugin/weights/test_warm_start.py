"""Models that start from existing weights: all layouts, channels, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bt_plugin.config.model import Model
from bt_plugin.config.recipe import Recipe
from bt_plugin.errors import RecipeError
from bt_plugin.models.barlow_twins import BarlowTwins
from bt_plugin.models.from_recipe import build_model
from bt_plugin.weights.export_folder import write_run_export
from bt_plugin.weights.warm_start import warm_start

BACKBONE = "torchvision/resnet18"


def recipe_of(seed: int = 0, **model: Any) -> Recipe:
    channels = max(3, model.get("in_chans", 3))
    colors = {"jitter_p": 0.0, "gray_p": 0.0} if channels > 3 else {}
    views = {"size_px": 32, "mean": [0.5] * channels, "std": [0.25] * channels, **colors}
    return Recipe.model_validate(
        {
            "data": {"train": "unused"},
            "views": {"both": views},
            "model": {"backbone": BACKBONE, "projector": [16, 8], **model},
            "run": {"output_dir": "unused", "seed": seed},
        }
    )


@pytest.fixture(scope="module")
def source() -> BarlowTwins:
    """A network with other weights than a new one, and running statistics that are not 0 and 1."""
    model = build_model(recipe_of(seed=1)).train()
    with torch.no_grad():
        model(*torch.randn(2, 4, 3, 32, 32))
    return model.eval()


def started(seed: int = 0, **model: Any) -> BarlowTwins:
    recipe = recipe_of(seed, **model)
    network = build_model(recipe)
    warm_start(network, recipe.model)
    return network.eval()


def saved(path: Path, state: dict[str, Tensor], name: str = "") -> str:
    torch.save({name: state} if name else state, path)
    return str(path)


def official(source: BarlowTwins) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in source.state_dict().items()}


def lightly(source: BarlowTwins) -> dict[str, Tensor]:
    parts = {"backbone.": source.backbone, "projection_head.layers.": source.projector}
    return {f"{at}{key}": value for at, part in parts.items() for key, value in part.state_dict().items()}


@pytest.mark.parametrize("layout", ["run", "official", "lightly", "torchvision", "safetensors"])
def test_features_are_those_of_the_source(tmp_path: Path, source: BarlowTwins, layout: str) -> None:
    path = tmp_path / "weights.pth"
    if layout == "run":
        write_run_export(source, recipe_of(seed=1), run_dir=tmp_path, step=0)
        init = str(tmp_path)
    elif layout == "safetensors":
        init = str(tmp_path / "weights.safetensors")
        save_file(source.backbone.state_dict(), init)
    elif layout == "torchvision":
        classifier = {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
        init = saved(path, source.backbone.state_dict() | classifier)
    else:
        init = saved(path, {"official": official, "lightly": lightly}[layout](source), "state_dict")
    network, images = started(init=init), torch.randn(2, 3, 32, 32)
    assert torch.equal(network.backbone(images), source.backbone(images))
    has_projector = layout in ("run", "official", "lightly")
    embeddings = [each.projector(each.backbone(images)) for each in (network, source)]
    assert torch.equal(*embeddings) == has_projector
    alone = started(init=init, init_projector="never")
    assert torch.equal(alone.backbone(images), source.backbone(images))
    fresh = build_model(recipe_of()).projector.state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in alone.projector.state_dict().items())


def test_a_projector_of_other_widths_starts_from_random_weights(tmp_path: Path, source: BarlowTwins) -> None:
    write_run_export(source, recipe_of(seed=1), run_dir=tmp_path, step=0)
    network = started(init=str(tmp_path), projector=[16, 12])
    fresh = build_model(recipe_of(projector=[16, 12])).projector.state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in network.projector.state_dict().items())


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_the_first_convolution_gets_the_channels_of_the_images(
    tmp_path: Path, source: BarlowTwins, channels: int
) -> None:
    """Equal channels, as many as there are, give the features of three equal channels."""
    init = saved(tmp_path / "weights.pth", source.backbone.state_dict())
    network, images = started(init=init, in_chans=channels), torch.randn(2, 1, 32, 32)
    if channels == 4:  # the first three weights once more, in turn, scaled
        kernel = source.backbone.state_dict()["conv1.weight"]
        assert torch.equal(network.backbone.state_dict()["conv1.weight"][:, 3], kernel[:, 0] * 0.75)
        return
    ours = network.backbone(images.expand(-1, channels, -1, -1))
    torch.testing.assert_close(ours, source.backbone(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_named_and_may_be_left_out(tmp_path: Path, source: BarlowTwins) -> None:
    state = dict(source.backbone.state_dict())
    state["layer9.weight"] = torch.zeros(3)
    del state["layer1.0.bn1.weight"]
    state["layer2.0.conv1.weight"] = torch.zeros(2, 2)
    init = saved(tmp_path / "weights.pth", state)
    with pytest.raises(RecipeError) as refused:
        started(init=init)
    for named in ("model.init", "layer9.weight", "layer1.0.bn1.weight", "layer2.0.conv1.weight", "weights.pth"):
        assert named in str(refused.value)
    network, fresh = started(init=init, init_strict=False), build_model(recipe_of()).backbone.state_dict()
    got = network.backbone.state_dict()
    for key in ("layer1.0.bn1.weight", "layer2.0.conv1.weight"):
        assert torch.equal(got[key], fresh[key])
    assert torch.equal(got["conv1.weight"], source.backbone.state_dict()["conv1.weight"])
    nothing = saved(tmp_path / "nothing.pth", {"a.weight": torch.zeros(3)})
    with pytest.raises(RecipeError, match=r"model.init: no tensor of .*nothing.pth fits model.backbone="):
        started(init=nothing, init_strict=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "nowhere.pth"}, "model.init: nowhere.pth does not exist"),
        ({"init": "timm"}, "model.init: timm has no weights for torchvision/resnet18; use torchvision"),
        ({"stem": "small"}, r"does not fit model.backbone=torchvision/resnet18 with stem=small.*conv1.weight"),
        ({"init_sha256": "0" * 64}, "model.init_sha256: 0{64} is not the hash of the weights"),
        ({"backbone": "torchvision/resnet34"}, "does not fit the backbone torchvision/resnet34"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, source: BarlowTwins, changes: dict[str, Any], message: str) -> None:
    init = saved(tmp_path / "weights.pth", source.backbone.state_dict())
    with pytest.raises(RecipeError, match=message):
        started(**{"init": init, **changes})


def test_the_hash_is_of_the_tensors(tmp_path: Path, source: BarlowTwins) -> None:
    """Not of the file, whose format and other content do not matter."""
    choice: dict[str, Any] = {"backbone": BACKBONE, "projector": [16, 8]}
    first = saved(tmp_path / "a.pth", source.backbone.state_dict())
    second = str(tmp_path / "b.safetensors")
    save_file(source.backbone.state_dict(), second)
    network = build_model(recipe_of())
    hashes = {warm_start(network, Model(**choice, init=init)).sha256 for init in (first, second)}
    assert len(hashes) == 1
    changed = dict(source.backbone.state_dict())
    changed["conv1.weight"] = changed["conv1.weight"] + 1e-3
    other = saved(tmp_path / "c.pth", changed)
    assert warm_start(network, Model(**choice, init=other)).sha256 not in hashes


def test_a_timm_network_too(tmp_path: Path) -> None:
    name = "timm/test_vit"
    vit: nn.Module = build_model(recipe_of(seed=1, backbone=name)).backbone
    init = saved(tmp_path / "vit.pth", vit.state_dict())
    network, images = started(init=init, backbone=name), torch.randn(2, 3, 160, 160)
    assert torch.equal(network.backbone(images), vit.eval()(images))


def build(width: int = 5) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


@pytest.mark.parametrize(
    ("backbone", "args"),
    [("timm/test_vit", {"drop_path_rate": 0.1}), ("timm/test_vit", {"depth": 1}), (f"{__name__}:build", {"width": 7})],
)
def test_a_network_with_arguments_too(tmp_path: Path, backbone: str, args: dict[str, Any]) -> None:
    """And one of the user's own. A ViT keeps the shapes of its own size, though the views here have another one."""
    given: nn.Module = build_model(recipe_of(seed=1, backbone=backbone, args=args)).backbone
    init = saved(tmp_path / "weights.pth", given.state_dict())
    network, images = started(init=init, backbone=backbone, args=args), torch.randn(2, 3, 32, 32)
    assert torch.equal(network.backbone(images), given.eval()(images))
    other = saved(tmp_path / "other.pth", {"conv.weight": torch.ones(1)})
    with pytest.raises(RecipeError, match=r"does not fit model\.backbone=.* and args=\{.*\}: it lacks"):
        started(init=other, backbone=backbone, args=args)
