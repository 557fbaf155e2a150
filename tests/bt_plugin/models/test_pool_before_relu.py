"""Where the stem's ReLU is does not matter, to the last bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bt_plugin.models.backbones import build_backbone
from bt_plugin.models.pool_before_relu import pool_before_relu
from tests.bt_plugin.loss.differentiated import gradients


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/resnext50_32x4d", "timm/resnet18"])
def test_a_resnet_that_pools_first_is_the_same(name: str) -> None:
    torch.manual_seed(0)
    plain, _ = build_backbone(name)
    images = torch.randn(4, 3, 64, 64)
    # Ties, and pixels that are nowhere positive.
    images[0] = images[0].sign()
    images[1, :, 16:48] = 0
    changed = copy.deepcopy(plain)
    pool_before_relu(changed)
    assert isinstance(changed.maxpool, nn.Sequential)
    assert list(changed.state_dict()) == list(plain.state_dict())
    for of_changed, of_plain in zip(gradients(changed, images), gradients(plain, images), strict=True):
        assert torch.equal(of_changed, of_plain)


def test_the_relu_has_a_quarter_of_the_pixels() -> None:
    backbone, _ = build_backbone("torchvision/resnet18")
    seen: list[torch.Size] = []
    backbone.get_submodule("relu").register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    pool_before_relu(backbone)
    backbone(torch.randn(2, 3, 64, 64))
    assert seen == [(2, 64, 16, 16)]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("torchvision/resnet18", "small"),  # which does not pool
        ("timm/resnet10t", "standard"),  # several convolutions, and still conv1, bn1, act1
        ("timm/resnetblur18", "standard"),  # whose blur after the max-pool wants the ReLU before
        ("torchvision/googlenet", "standard"),
        ("timm/vit_tiny_patch16_224", "standard"),
    ],
)
def test_other_networks_are_the_same(name: str, stem: str) -> None:
    torch.manual_seed(0)
    plain, _ = build_backbone(name, stem=stem)  # type: ignore[arg-type]
    changed = copy.deepcopy(plain)
    pool_before_relu(changed)
    pool_before_relu(changed)
    images = torch.randn(2, 3, 224, 224)
    assert torch.equal(changed.eval()(images), plain.eval()(images))
