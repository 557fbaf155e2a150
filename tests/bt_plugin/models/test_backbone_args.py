"""Arguments of networks of torchvision and timm, and ViTs for images of any size."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from bt_plugin.errors import RecipeError
from bt_plugin.models.backbones import build_backbone

VIT = "timm/vit_tiny_patch16_224"
TINY = {"depth": 1, "embed_dim": 24, "num_heads": 3}


def test_arguments_reach_the_constructor() -> None:
    vit = build_backbone(VIT, args={**TINY, "drop_path_rate": 0.5, "img_size": 48}).module
    assert vit.pos_embed.shape == (1, 10, 24)
    assert len(vit.blocks) == 1
    small = build_backbone("torchvision/vit_b_32", args={"image_size": 64}).module
    assert small(torch.zeros(2, 3, 64, 64)).shape == (2, 768)


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("timm/resnet18", {"img_size": 48}, r"model.args: timm/resnet18 has no argument img_size; remove it"),
        ("torchvision/resnet18", {"image_size": 48}, r"model.args: torchvision/resnet18 has no argument image_size"),
        ("timm/resnet18", {"num_classes": 3}, "model.args: num_classes is not allowed for timm/resnet18"),
        ("timm/resnet18", {"in_chans": 3}, "in_chans is not allowed .* set model.in_chans"),
        ("timm/resnet18", {"pretrained_cfg": {}}, "pretrained_cfg is not allowed .* set model.init"),
        ("timm/resnet18", {"checkpoint_path": "x"}, "checkpoint_path is not allowed .* set model.init"),
        ("torchvision/resnet18", {"weights": "DEFAULT"}, "weights is not allowed .* set model.init"),
        (VIT, {"num_heads": 7}, r"model.args: timm/vit_tiny_patch16_224 cannot be built with num_heads=7"),
        (VIT, {"depth": "x"}, r"cannot be built with depth='x' \(TypeError"),
    ],
)
def test_wrong_arguments_are_told(name: str, args: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        build_backbone(name, args=args)


def test_a_vit_takes_images_of_any_size_with_the_weights_of_timm() -> None:
    ours = build_backbone(VIT, args=TINY).module.eval()
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY).eval()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    theirs.load_state_dict(ours.state_dict())
    native = torch.randn(2, 3, 224, 224)
    assert torch.equal(ours(native), theirs(native))
    resized = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=48, **TINY).eval()
    state = timm.models.vision_transformer.checkpoint_filter_fn(theirs.state_dict(), resized)
    resized.load_state_dict(state)
    images = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(ours(images), resized(images))
    fixed = build_backbone(VIT, args={**TINY, "dynamic_img_size": False}).module
    with pytest.raises(AssertionError, match="doesn't match model"):
        fixed(images)


@pytest.mark.parametrize("module", ["vision_transformer", "vision_transformer_hybrid", "deit", "eva"])
def test_every_model_of_these_modules_takes_any_size(module: str) -> None:
    """The first and the last of each, because all names together take a minute."""
    names = timm.list_models(module=module)
    for name in (names[0], names[-1]):
        with torch.device("meta"):
            assert build_backbone(f"timm/{name}").module.dynamic_img_size, name
