"""Groups for AdamW and SGD: what has no weight decay, and the rate of each layer, by hand-written tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bt_plugin import BarlowTwins, build_backbone, build_projector
from bt_plugin.errors import RecipeError
from bt_plugin.optim.layer_groups import layer_groups


def built(name: str) -> nn.Module:
    """A model without memory for its weights."""
    with torch.device("meta"):
        backbone, feature_dim = build_backbone(name)
        return BarlowTwins(backbone, build_projector(feature_dim, [8, 8]))


def by_name(model: nn.Module, **options: float) -> dict[str, tuple[float, float]]:
    """Each parameter's rate and weight decay."""
    found: dict[int, tuple[float, float]] = {}
    for group in layer_groups(model, lr=1.0, weight_decay=0.1, **options):
        assert group["lr"] == group["base_lr"]
        for p in group["params"]:
            assert id(p) not in found
            found[id(p)] = group["base_lr"], group["weight_decay"]
    return {name: found[id(p)] for name, p in model.named_parameters()}


VIT = {
    "pos_embed": (0.5**13, 0.0),
    "cls_token": (0.5**13, 0.0),
    "patch_embed.proj.weight": (0.2 * 0.5**13, 0.1),
    "patch_embed.proj.bias": (0.2 * 0.5**13, 0.0),
    "blocks.0.attn.qkv.weight": (0.5**12, 0.1),
    "blocks.0.norm1.weight": (0.5**12, 0.0),
    "blocks.11.mlp.fc2.weight": (0.5, 0.1),
    "norm.weight": (1.0, 0.0),
}
TORCHVISIONS_VIT = {
    "class_token": (0.5**13, 0.0),
    "conv_proj.weight": (0.2 * 0.5**13, 0.1),
    "encoder.pos_embedding": (0.5**13, 0.0),
    "encoder.layers.encoder_layer_0.mlp.0.weight": (0.5**12, 0.1),
    "encoder.layers.encoder_layer_10.mlp.0.bias": (0.5**2, 0.0),
    "encoder.ln.weight": (1.0, 0.0),
}
RESNET = {
    "conv1.weight": (0.5**5, 0.1),
    "bn1.weight": (0.5**5, 0.0),
    "layer1.0.conv1.weight": (0.5**4, 0.1),
    "layer3.1.conv2.weight": (0.5**2, 0.1),
    "layer4.1.bn2.bias": (0.5, 0.0),
}


@pytest.mark.parametrize(
    ("name", "scale", "table"),
    [
        ("timm/vit_tiny_patch16_224", 0.2, VIT),
        ("timm/vit_small_patch14_reg4_dinov2", 0.2, {**VIT, "reg_token": (0.5**13, 0.0)}),
        ("torchvision/vit_b_16", 0.2, TORCHVISIONS_VIT),
        ("torchvision/resnet18", 1.0, RESNET),
        ("timm/resnet18", 1.0, RESNET),
    ],
)
def test_rates_and_decay_are_those_of_the_table(name: str, scale: float, table: dict[str, tuple[float, float]]) -> None:
    model = built(name)
    found = by_name(model, layer_decay=0.5, patch_embed_lr_scale=scale)
    assert {key: found[f"backbone.{key}"] for key in table} == table
    projector = {key: value for key, value in found.items() if key.startswith("projector.")}
    assert projector == {
        key: (1.0, 0.1 if p.ndim > 1 else 0.0) for key, p in model.named_parameters() if key in projector
    }
    plain = by_name(model)
    assert {key: decay for key, (_, decay) in plain.items()} == {key: decay for key, (_, decay) in found.items()}
    assert {rate for rate, _ in plain.values()} == {1.0}


def test_what_the_network_itself_names_has_no_decay() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.weight = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))

        def no_weight_decay(self) -> set[str]:
            return {"table"}

    assert by_name(nn.Sequential(Table())) == {"0.table": (1.0, 0.0), "0.weight": (1.0, 0.1)}


def test_one_rate_is_logged_and_what_is_frozen_is_in_no_group() -> None:
    model = built("torchvision/resnet18")
    model.get_submodule("backbone.layer1").requires_grad_(False)
    groups = layer_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    assert [group.get("name") for group in groups] == ["base"] + [None] * (len(groups) - 1)
    assert groups[0]["base_lr"] == 1.0
    assert {group["base_lr"] for group in groups} == {1.0, 0.5, 0.25, 0.125, 0.03125}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torchvision/shufflenet_v2_x0_5", {"layer_decay": 0.5}),
        ("torchvision/resnet18", {"patch_embed_lr_scale": 0.5}),
    ],
)
def test_what_a_backbone_does_not_have_is_refused_by_key(name: str, options: dict[str, Any]) -> None:
    (key,) = options
    with pytest.raises(RecipeError, match=rf"^optim\.{key}: 0\.5 needs .* set optim\.{key} to 1"):
        by_name(built(name), **options)
