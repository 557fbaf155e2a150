"""Divide a model's parameters into groups for AdamW and SGD: by weight decay, and by the layer of the backbone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from bt_plugin.errors import RecipeError

# How timm's and torchvision's networks name their layers: vision transformers, ConvNeXt, Swin, ResNet.
_LAYER = re.compile(r"backbone\.(?:(?:blocks|stages|layers)\.|layer|encoder\.layers\.encoder_layer_)(\d+)\.")
# What embeds the patches in timm's and torchvision's vision transformers.
_PATCH_EMBED = ("backbone.patch_embed.", "backbone.conv_proj.")
_POSITION_OR_TOKEN = re.compile(r"(?:.*\.)?(?:pos_embed\w*|\w+_tokens?|relative_position_bias_table)")


class _Group(NamedTuple):
    """Rules of one parameter group.

    Args:
        scale: Factor of the base learning rate.
        is_decayed: Whether it has weight decay.
    """

    scale: float
    is_decayed: bool


def layer_groups(
    model: nn.Module, *, lr: float, weight_decay: float, layer_decay: float = 1.0, patch_embed_lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Return parameter groups for AdamW or SGD.

    These parameters have no weight decay: those of one dimension or none, position embeddings, tokens, and those that
    the backbone's own ``no_weight_decay()`` names, which timm's networks have. Frozen parameters are in no group.

    With layer decay, layer l of the backbone's L layers has the rate lr * layer_decay ** (L + 1 - l). What comes
    before the first layer, such as the patch embedding and the position embedding, counts as layer 0. What comes after
    the last layer, such as a final norm, and the projector have the whole rate.

    Args:
        model: Model whose parameters are divided. With layer decay it has a ``backbone``.
        lr: Base learning rate, 0 or more.
        weight_decay: Weight decay, 0 or more.
        layer_decay: Factor of the rate from one layer to the layer below it, above 0, at most 1.
        patch_embed_lr_scale: Factor of the rate of the patch embedding, in addition to that of its layer, 0 to 1.

    Returns:
        Groups with the keys "params", "base_lr", "lr" and "weight_decay". The first one has the whole rate and the
        name "base". The others have no name, because their rates are fixed fractions of it.

    Raises:
        RecipeError: If the backbone has no layers or no patch embedding that this function knows.

    Source:
        Groups without decay: timm's and torchvision's recipes for vision transformers. Layer decay: Bao et al. 2021,
        BEiT, https://arxiv.org/abs/2106.08254; facebookresearch/mae util/lr_decay.py counts layers as here. Scale of
        the patch embedding: Oquab et al. 2023, DINOv2, https://arxiv.org/abs/2304.07193.

    Examples:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        >>> groups = layer_groups(model, lr=1e-3, weight_decay=0.05)
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(1, 0.05), (3, 0.0)]
    """
    scales = _scales(model, layer_decay, patch_embed_lr_scale)
    is_decayed = _decay_of(model)
    members: dict[_Group, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            members.setdefault(_Group(scales[name], is_decayed(name, p)), []).append(p)
    groups: list[dict[str, Any]] = []
    for each in sorted(members, reverse=True):
        rate = lr * each.scale
        decay = weight_decay if each.is_decayed else 0.0
        groups.append({"params": members[each], "base_lr": rate, "lr": rate, "weight_decay": decay})
    groups[0]["name"] = "base"
    return groups


def _decay_of(model: nn.Module) -> Callable[[str, nn.Parameter], bool]:
    """Return a function that tells whether a parameter has weight decay."""
    named = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if callable(getattr(module, "no_weight_decay", None))
        for name in module.no_weight_decay()
    }
    return lambda name, p: p.ndim > 1 and name not in named and not _POSITION_OR_TOKEN.fullmatch(name)


def _scales(model: nn.Module, layer_decay: float, patch_embed_lr_scale: float) -> dict[str, float]:
    """Return the factor of the base learning rate of each parameter by its name."""
    names = [name for name, _ in model.named_parameters()]
    layers = _layers(names)
    top = max(layers.values())
    if layer_decay != 1 and top == 0:
        raise RecipeError(
            f"optim.layer_decay: {layer_decay:g} needs a backbone with known layers: a ResNet, or a vision transformer,"
            " Swin or ConvNeXt of timm, or a vision transformer of torchvision; set optim.layer_decay to 1, or use"
            " another model.backbone"
        )
    scales = {name: layer_decay ** (top - layers[name]) for name in names}
    embedding = [name for name in names if name.startswith(_PATCH_EMBED)]
    if patch_embed_lr_scale != 1 and not embedding:
        raise RecipeError(
            f"optim.patch_embed_lr_scale: {patch_embed_lr_scale:g} needs a vision transformer of timm or torchvision;"
            " set optim.patch_embed_lr_scale to 1, or use another model.backbone"
        )
    return scales | {name: scales[name] * patch_embed_lr_scale for name in embedding}


def _layers(names: list[str]) -> dict[str, int]:
    """Return the layer of each parameter: 0 before the first layer, then 1 to L, and L + 1 after the last one.

    Modules register their parameters in the order of the forward pass, their own before those of their children.
    """
    found = [_LAYER.match(name) for name in names]
    numbers = sorted({int(match[1]) for match in found if match})
    layers, below = {}, 0
    for name, match in zip(names, found):
        if match:
            below = len(numbers) + 1
        layers[name] = 1 + numbers.index(int(match[1])) if match else below
    return layers
