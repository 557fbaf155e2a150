"""The memory format changes no numbers."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

from bt_plugin.models import memory_format as layout
from bt_plugin.models.memory_format import lay_out
from tests.bt_plugin.loss.differentiated import gradients

# (channels in and out, kernel, stride, padding, dilation, groups, bias, size)
CONVOLUTIONS = [
    (3, 8, 7, 2, 3, 1, 1, False, 32),  # a ResNet's first
    (8, 16, 3, 1, 1, 1, 1, False, 8),
    (8, 16, 3, 2, 1, 1, 1, False, 8),  # contiguous from here on
    (8, 16, 3, 1, 1, 1, 1, False, 4),
    (8, 16, 3, 2, 1, 1, 1, False, 4),  # by places from here on
    (8, 16, 3, 1, 1, 1, 1, False, 2),
    (8, 16, (3, 2), (2, 1), (1, 0), 1, 1, False, 3),
    (8, 16, 3, 1, 2, 2, 1, False, 2),
    (8, 16, 3, 1, 1, 1, 1, True, 1),
    (8, 16, 1, 1, 0, 1, 1, False, 2),
    (8, 16, 3, 1, 1, 1, 4, False, 2),
]


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_convolution_by_layer_is_the_same(shape: tuple, order: torch.memory_format) -> None:  # type: ignore[type-arg]
    torch.manual_seed(0)
    ins, outs, kernel, stride, padding, dilation, groups, bias, size = shape
    plain = nn.Conv2d(ins, outs, kernel, stride, padding, dilation, groups, bias).double()
    ours = lay_out(copy.deepcopy(plain), "auto", by_layer=True)
    assert (type(ours) is nn.Conv2d) == (groups > 1)
    images = torch.randn(6, ins, size, size, dtype=torch.float64).contiguous(memory_format=order)
    for ours_of, plain_of in zip(gradients(ours, images), gradients(plain, images)):
        torch.testing.assert_close(ours_of, plain_of)
    assert torch.equal(ours(images[0]), plain(images[0])), "one image without a batch"


@pytest.mark.parametrize("memory_format", ["auto", "channels_last", "contiguous"])
def test_a_resnet_is_the_same_in_every_layout(memory_format: str) -> None:
    torch.manual_seed(0)
    plain = torchvision.models.resnet18().double()
    ours = lay_out(copy.deepcopy(plain), memory_format, by_layer=True)
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    assert list(ours.state_dict()) == list(plain.state_dict())
    for ours_of, plain_of in zip(gradients(ours, images), gradients(plain, images)):
        torch.testing.assert_close(ours_of, plain_of)


def test_the_smallest_maps_go_by_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the speed would be lost unseen."""
    seen: list[tuple[int, ...]] = []
    apply = layout._ByPlaces.apply

    def noting(images: Tensor, *options: object) -> Tensor:
        seen.append(tuple(images.shape))
        output: Tensor = apply(images, *options)
        return output

    monkeypatch.setattr(layout._ByPlaces, "apply", noting)
    model = lay_out(torchvision.models.resnet18(), "auto", by_layer=True)
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    assert seen == [(4, 256, 4, 4)] + [(4, 512, 2, 2)] * 3
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(4, 3, 64, 64)).sum().backward()
    assert len(seen) == 4, "which know one dtype only"


def test_channels_last_is_of_weights_and_other_layouts_touch_nothing() -> None:
    model = nn.Conv2d(3, 4, 3)
    assert lay_out(copy.deepcopy(model), "channels_last", True).weight.is_contiguous(memory_format=torch.channels_last)
    assert lay_out(copy.deepcopy(model), "auto", False).weight.is_contiguous(memory_format=torch.channels_last)
    assert lay_out(copy.deepcopy(model), "contiguous", False).weight.is_contiguous()
