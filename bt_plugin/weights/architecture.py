"""Find the backbone that has the keys and shapes of given weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bt_plugin.errors import WeightsError
from bt_plugin.models.backbones import Stem, build_backbone
from bt_plugin.weights.tensors import State, UnknownLayoutError, check_finite, check_tensors, some

# timm's models of the same names have the same keys, shapes and features.
_PLAIN = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_WIDE = ("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")
_RESNETS = _PLAIN + _WIDE
_MOST_CHANNELS = 4096
_STEMS: dict[int, Stem] = {7: "standard", 3: "small"}
_CLASSIFIERS = ("fc.", "classifier.", "head.", "heads.", "last_linear.", "linear.")
# Layers inside a backbone that do not change its features: torchvision's auxiliary classifiers, and the heads of
# methods that add them to the backbone itself, such as SwAV: facebookresearch/swav src/resnet50.py at 04b8f43.
_HEADS = ("aux1.", "aux2.", "AuxLogits.", "projection_head.", "prototypes.", "predictor.", "projector.")
# A counter that weights from before torch 0.4.1 lack. Features do not depend on it.
_COUNTER = "num_batches_tracked"


class Expected(NamedTuple):
    """A backbone's feature_dim, the shapes of its weights, and the key of its first convolution."""

    feature_dim: int
    shapes: dict[str, torch.Size]
    first_conv: str


class Fitted(NamedTuple):
    """A backbone's weights, and the arguments with which build_backbone builds the model that they fit."""

    name: str
    stem: Stem
    in_chans: int
    feature_dim: int
    state: State
    dropped: list[str]


def read_backbone(state: State, name: str | None, *, path: Path, where: str = "") -> Fitted:
    """Find the backbone as fit_backbone does, and check its weights.

    Raises:
        UnknownLayoutError: If no ResNet of torchvision fits, or the named backbone does not fit.
        WeightsError: If the weights cannot be used.
    """
    check_tensors(state, path)
    fitted = fit_backbone(state, name, path=path, where=where)
    check_finite(fitted.state, path)
    return fitted


def fit_backbone(state: State, name: str | None, *, path: Path, where: str = "") -> Fitted:
    """Find the backbone that the weights belong to, or check that the named backbone fits.

    A first convolution of 3x3 means the small stem, with stride 1 and without max-pool, because no key stores the stem.

    Args:
        state: Weights of a backbone, with or without a classifier.
        name: "torchvision/NAME" or "timm/NAME", None to find it.
        path: The file, for messages.
        where: The prefix of the keys in the file, for messages.

    Raises:
        UnknownLayoutError: If no ResNet of torchvision fits, or the named backbone does not fit.
    """
    match, difference = match_backbone(state, name)
    place = f"{path} under {where}" if where else str(path)
    if match is None and name:
        raise UnknownLayoutError(
            f"{place} does not fit the backbone {name}: {difference}. Give the backbone of this file"
        )
    if match is None:
        raise UnknownLayoutError(
            f"{place} has keys and shapes of no ResNet of torchvision ({some(state)}). Give its backbone with"
            " --backbone torchvision/NAME or timm/NAME"
        )
    feature_dim, shapes, _ = _expected(*match)
    kept = {key: _float32(state[key]) if key in state else torch.tensor(0) for key in shapes}
    return Fitted(*match, feature_dim, kept, _left_out([key for key in state if key not in shapes]))


def match_backbone(state: State, name: str | None) -> tuple[tuple[str, Stem, int] | None, str]:
    """Return the backbone with these keys and shapes, its stem and channels, or None and the last difference.

    Args:
        state: Weights of a backbone. Their values are not read.
        name: "torchvision/NAME" or "timm/NAME", None to try torchvision's ResNets.
    """
    stem, in_chans = _input_of(state)
    difference = ""
    for candidate in [name] if name else [f"torchvision/{resnet}" for resnet in _RESNETS]:
        if name:
            stem, in_chans = _named_input(candidate, state, stem)
        difference = difference_of(state, _expected(candidate, stem, in_chans).shapes)
        if not difference:
            return (candidate, stem, in_chans), ""
    return None, difference


def first_key(name: str) -> str:
    """Return the first key of the weights of a backbone."""
    return next(iter(_expected(name, "standard", 3).shapes))


def difference_of(state: State, shapes: dict[str, torch.Size]) -> str:
    """Describe how weights differ from those of a model: missing, extra and misshaped keys. Empty if they fit.

    Args:
        state: The weights. Those of classifiers and of methods' heads do not count.
        shapes: Shapes of the model's weights.
    """
    missing = [key for key in shapes if key not in state and not key.endswith(_COUNTER)]
    unexpected = [key for key in state if key not in shapes and not key.startswith(_CLASSIFIERS + _HEADS)]
    others = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(shape)}"
        for key, shape in shapes.items()
        if key in state and state[key].shape != shape
    ]
    found = {"it lacks": missing, "it also has": unexpected, "of another shape": others}
    return "; ".join(f"{what} {some(keys)}" for what, keys in found.items() if keys)


def _left_out(keys: list[str]) -> list[str]:
    classifier = [key for key in keys if key.startswith(_CLASSIFIERS)]
    heads: dict[str, int] = {}
    for key in keys:
        if key not in classifier:
            heads[key.partition(".")[0]] = heads.get(key.partition(".")[0], 0) + 1
    words = [f"the classifier, {', '.join(classifier)}"] if classifier else []
    return words + [f"{name} ({count} {'tensor' if count == 1 else 'tensors'})" for name, count in heads.items()]


def _input_of(state: State) -> tuple[Stem, int]:
    first = state.get("conv1.weight")
    if first is None or first.ndim != 4 or not 1 <= first.shape[1] <= _MOST_CHANNELS:
        return "standard", 3
    return _STEMS.get(first.shape[-1], "standard"), first.shape[1]


def _named_input(name: str, state: State, stem: Stem) -> tuple[Stem, int]:
    """Return the stem and channels of any backbone, read from its first convolution."""
    _, shapes, first = _expected(name, "standard", 3)
    if first not in state or state[first].ndim != 4 or not 1 <= state[first].shape[1] <= _MOST_CHANNELS:
        return "standard", 3
    # A model whose own first convolution is 3x3 has only the standard stem.
    own = first != "conv1.weight" or shapes[first] == state[first].shape
    return "standard" if own else stem, state[first].shape[1]


@cache
def _expected(name: str, stem: Stem, in_chans: int) -> Expected:
    # The ResNets can be built without memory, but not all of timm's models.
    device = "meta" if name.removeprefix("torchvision/") in _RESNETS else "cpu"
    try:
        with torch.device(device):
            backbone = build_backbone(name, stem=stem, in_chans=in_chans)
    except (ValueError, ImportError) as error:
        raise WeightsError(f"--backbone: {error}") from error
    convs = (f"{path}.weight" for path, layer in backbone.module.named_modules() if isinstance(layer, nn.Conv2d))
    shapes = {key: value.shape for key, value in backbone.module.state_dict().items()}
    return Expected(backbone.feature_dim, shapes, next(convs, ""))


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
