"""Which backbone has these keys and shapes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bt_plugin.backbones import Stem, build_backbone
from bt_plugin.errors import WeightsError

State = dict[str, Tensor]
Shapes = dict[str, torch.Size]

# timm's of the same names have the same keys, shapes and features.
_PLAIN = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_WIDE = ("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")
_RESNETS = _PLAIN + _WIDE
_STEMS: dict[int, Stem] = {7: "standard", 3: "small"}
_CLASSIFIERS = ("fc.", "classifier.", "head.", "heads.", "last_linear.", "linear.")
# A counter that weights of before torch 0.4.1 lack, and that features do not depend on.
_COUNTER = "num_batches_tracked"


class Fitted(NamedTuple):
    """A backbone's weights, and how build_backbone makes the model that they fit."""

    name: str
    stem: Stem
    in_chans: int
    feature_dim: int
    state: State
    dropped: list[str]


def fit_backbone(state: State, name: str | None, path: Path) -> Fitted:
    """Finds the backbone that the weights are of, or checks the one that is named.

    A first convolution of 3x3 is taken for the small stem, of stride 1 and without max-pool: no key says so.

    Args:
        state: A backbone's weights, perhaps with a classifier's.
        name: "torchvision/NAME" or "timm/NAME", None to find it.
        path: Of the file, for messages.

    Raises:
        WeightsError: If no ResNet of torchvision fits, or not the one that is named.
    """
    stem, in_chans = _input_of(state)
    names = [name] if name else [f"torchvision/{resnet}" for resnet in _RESNETS]
    for candidate in names:
        if name:
            stem, in_chans = _named_input(candidate, state, stem)
        feature_dim, shapes, _ = _shapes_of(candidate, stem, in_chans)
        difference = _difference(state, shapes)
        if not difference:
            kept = {key: _float32(state[key]) if key in state else torch.tensor(0) for key in shapes}
            classifier = [key for key in state if key not in shapes]
            dropped = [f"the classifier, {', '.join(classifier)}"] if classifier else []
            return Fitted(candidate, stem, in_chans, feature_dim, kept, dropped)
    if name:
        raise WeightsError(f"{path} does not fit --backbone {name}: {difference}; name the backbone that it is of")
    raise WeightsError(
        f"{path} has keys and shapes of no ResNet of torchvision ({_some(state)}); name its backbone,"
        " --backbone torchvision/NAME or timm/NAME"
    )


def _input_of(state: State) -> tuple[Stem, int]:
    first = state.get("conv1.weight")
    if first is None or first.ndim != 4:
        return "standard", 3
    return _STEMS.get(first.shape[-1], "standard"), first.shape[1]


def _named_input(name: str, state: State, stem: Stem) -> tuple[Stem, int]:
    """Of any backbone, as its own first convolution tells."""
    _, shapes, first = _shapes_of(name, "standard", 3)
    if first not in state or state[first].ndim != 4:
        return "standard", 3
    # A model whose own first convolution is 3x3 has no other stem.
    own = first != "conv1.weight" or shapes[first] == state[first].shape
    return "standard" if own else stem, state[first].shape[1]


@cache
def _shapes_of(name: str, stem: Stem, in_chans: int) -> tuple[int, Shapes, str]:
    """Its feature_dim, the shapes of its weights, and the name of its first convolution's."""
    # The ResNets are built without memory; not all of timm's models can be.
    device = "meta" if name.removeprefix("torchvision/") in _RESNETS else "cpu"
    try:
        with torch.device(device):
            backbone = build_backbone(name, stem, in_chans)
    except ValueError as error:
        raise WeightsError(f"--backbone: {error}") from error
    convs = (f"{path}.weight" for path, layer in backbone.module.named_modules() if isinstance(layer, nn.Conv2d))
    shapes = {key: value.shape for key, value in backbone.module.state_dict().items()}
    return backbone.feature_dim, shapes, next(convs, "")


def _difference(state: State, shapes: Shapes) -> str:
    missing = [key for key in shapes if key not in state and not key.endswith(_COUNTER)]
    unexpected = [key for key in state if key not in shapes and not key.startswith(_CLASSIFIERS)]
    others = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
        for key, shape in shapes.items()
        if key in state and state[key].shape != shape
    ]
    found = {"it lacks": missing, "it has besides": unexpected, "of another shape": others}
    return "; ".join(f"{what} {_some(keys)}" for what, keys in found.items() if keys)


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
