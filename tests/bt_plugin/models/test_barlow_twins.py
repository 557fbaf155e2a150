"""Backbones, projector and the method."""

from __future__ import annotations

import copy
import sys

import pytest
import timm
import torch
import torchvision
from torch import nn

from bt_plugin import BarlowTwins, build_backbone, build_projector


@pytest.mark.parametrize(
    ("name", "feature_dim"),
    [
        ("torchvision/resnet18", 512),
        ("torchvision/resnet50", 2048),
        ("torchvision/efficientnet_b0", 1280),
        ("torchvision/vit_b_16", 768),
        ("timm/resnet18", 512),
        ("timm/mobilenetv3_small_050", 1024),
        ("timm/vit_tiny_patch16_224", 192),
    ],
)
def test_backbones_give_their_features(name: str, feature_dim: int) -> None:
    backbone = build_backbone(name)
    assert backbone.feature_dim == feature_dim
    with torch.no_grad():
        assert backbone.module.eval()(torch.zeros(2, 3, 224, 224)).shape == (2, feature_dim)


def test_keys_are_the_libraries_own() -> None:
    ours = build_backbone("torchvision/resnet18", stem="small").module.state_dict()
    theirs = torchvision.models.resnet18().state_dict()
    assert set(theirs) - set(ours) == {"fc.weight", "fc.bias"}
    assert set(ours) <= set(theirs)
    assert set(build_backbone("timm/resnet18").module.state_dict()) == set(
        timm.create_model("resnet18", num_classes=0).state_dict()
    )


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
def test_small_stem_keeps_the_resolution(name: str) -> None:
    module = build_backbone(name, stem="small", in_chans=1).module
    assert module.conv1(torch.zeros(1, 1, 32, 32)).shape == (1, 64, 32, 32)
    assert module.conv1.kernel_size == (3, 3)
    assert isinstance(module.maxpool, nn.Identity)
    assert module(torch.zeros(2, 1, 32, 32)).shape == (2, 512)


@pytest.mark.parametrize("name", ["torchvision/resnet50", "timm/resnet50"])
def test_residual_branches_start_as_zero_where_asked(name: str) -> None:
    for zero in (True, False):
        block = build_backbone(name, zero_init_residual=zero).module.layer1[0]
        assert bool((block.bn3.weight == 0).all()) == zero


def test_projector_is_the_official_one() -> None:
    projector = build_projector(16, [32, 24, 8])
    assert [type(layer) for layer in projector] == [
        nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear,
    ]  # fmt: skip
    linears = [layer for layer in projector if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features, layer.bias) for layer in linears] == [
        (16, 32, None),
        (32, 24, None),
        (24, 8, None),
    ]
    assert [layer.out_features for layer in build_projector(16) if isinstance(layer, nn.Linear)] == [8192] * 3
    assert len(build_projector(16, [8])) == 1


def test_views_pass_one_after_the_other() -> None:
    """BatchNorm's statistics are each view's own, and its running statistics move twice."""
    torch.manual_seed(0)
    model = BarlowTwins(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12)), build_projector(12, [5]))
    view_a, view_b = torch.randn(8, 3, 2, 2), 10 + 3 * torch.randn(8, 3, 2, 2)
    z_a, z_b = model(view_a, view_b)
    for z in (z_a, z_b):
        assert z.shape == (8, 5)
        assert z.mean(0).abs().max() < 1e-5, "standardised view by view"
    assert model.backbone[1].num_batches_tracked == 2


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("resnet18", {}, "torchvision/NAME, timm/NAME or module:function"),
        ("torchvision/resnet19", {}, "did you mean resnet18"),
        ("timm/resnet5", {}, "did you mean resnet50"),
        ("timm/resnet18.nowhere", {}, r"timm/resnet18.nowhere does not exist; use one of resnet18\.a1_in1k"),
        ("torchvision/vit_b_16", {"stem": "small"}, "only ResNets"),
        ("torchvision/squeezenet1_0", {}, "no linear classifier"),
    ],
)
def test_a_bad_backbone_is_named(name: str, options: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build_backbone(name, **options)


def test_timm_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"timm/resnet18 needs timm: pip install timm"):
        build_backbone("timm/resnet18")


def test_views_together_are_the_views_one_by_one() -> None:
    """Embeddings, gradients and running statistics, in double precision."""
    torch.manual_seed(0)
    together = BarlowTwins(nn.Flatten(), build_projector(12, [16, 16, 5])).double()
    apart = BarlowTwins(nn.Flatten(), nn.Sequential(*copy.deepcopy(together.projector)))
    views = torch.randn(8, 3, 2, 2, dtype=torch.float64), 10 + 3 * torch.randn(8, 3, 2, 2, dtype=torch.float64)
    for model in (together, apart):
        z_a, z_b = model(*views)
        (z_a.square().sum() + z_b.pow(3).sum()).backward()
    assert together.state_dict().keys() == apart.state_dict().keys()
    for key, value in together.state_dict().items():
        torch.testing.assert_close(value, apart.state_dict()[key])
    for one, other in zip(together.parameters(), apart.parameters()):
        torch.testing.assert_close(one.grad, other.grad)
    assert together.projector(views[0].flatten(1)).shape == (8, 5), "one view gives no tuple"


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_no_network_has_auxiliary_outputs(monkeypatch: pytest.MonkeyPatch, name: str, pretrained: bool) -> None:
    """In training they would give three features of an image, in a tuple of their own."""
    # Weights are not downloaded: those of a new network stand for them.
    theirs = getattr(torchvision.models, name)(weights=None, aux_logits=True, init_weights=False).state_dict()
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", lambda *_, **__: theirs)
    module, feature_dim = build_backbone(f"torchvision/{name}", pretrained=pretrained)
    state = module.state_dict()
    assert not [key for key in state if "aux" in key.lower()]
    if pretrained:
        assert all(torch.equal(value, theirs[key]) for key, value in state.items())
    assert module.train()(torch.zeros(2, 3, 96, 96)).shape == (2, feature_dim)
