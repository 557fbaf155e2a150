"""What would stop a run at its first step is found without one."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.models.trial_forward import check_model


def of(small_recipe: Path, **model: object) -> Recipe:
    size = model.pop("size_px", 32)
    changes = [f"model.{key}={value}" for key, value in model.items()]
    return load_recipe(small_recipe, [*changes, f"views.both.size_px={size}"])


@pytest.mark.parametrize(
    ("backbone", "size_px", "says"),
    [
        ("torchvision/vit_b_32", 64, "cannot embed views of 64 px"),
        ("timm/beit_base_patch16_224", 96, "cannot embed views of 96 px"),
        ("timm/mixer_s32_224", 128, "cannot embed views of 128 px"),
        ("torchvision/inception_v3", 32, "cannot embed views of 32 px"),
        ("torchvision/alexnet", 32, "cannot embed views of 32 px"),
    ],
)
def test_a_size_that_the_network_cannot_take_is_told(
    small_recipe: Path, backbone: str, size_px: int, says: str
) -> None:
    with pytest.raises(RecipeError, match=f"model.backbone: {backbone} {says} with 3 channel"):
        check_model(of(small_recipe, backbone=backbone, size_px=size_px))


@pytest.mark.parametrize(
    ("backbone", "size_px"),
    [
        ("torchvision/resnet18", 32), ("torchvision/vit_b_32", 224), ("timm/vit_tiny_patch16_224", 224),
        ("timm/vit_tiny_patch16_224", 48), ("timm/deit_tiny_distilled_patch16_224", 64),
        ("timm/eva02_tiny_patch14_224", 98),
        ("timm/resnet18", 64), ("torchvision/googlenet", 64), ("timm/convnext_atto", 64), ("torchvision/swin_t", 64),
    ],
)  # fmt: skip
def test_networks_that_can_are_let_through(small_recipe: Path, backbone: str, size_px: int) -> None:
    check_model(of(small_recipe, backbone=backbone, size_px=size_px))


def test_the_channels_are_the_recipes(small_recipe: Path) -> None:
    check_model(of(small_recipe, backbone="timm/vit_tiny_patch16_224", in_chans=1, size_px=224))


@pytest.mark.parametrize(
    "name", ["my.module:Net", "resnet18", "torchvision/resnet19", "timm/../x", "torchvision//x", ""]
)
def test_a_name_that_does_not_exist_is_told(small_recipe: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=r"model\.backbone: "):
        check_model(of(small_recipe, backbone=repr(name)))


@pytest.mark.parametrize("projector", [[1_048_576, 1_048_576], [8, 1_048_576, 1_048_576, 8]])
def test_weights_that_do_not_fit_into_memory_are_told(small_recipe: Path, projector: list[int]) -> None:
    before = psutil.Process().memory_info().rss
    with pytest.raises(RecipeError, match=r"model.projector: .* GiB, and this machine has"):
        check_model(of(small_recipe, projector=projector))
    assert psutil.Process().memory_info().rss - before < 2**28
