"""Recognize which program wrote a state dict, and split it into backbone and projector."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from bt_plugin.errors import WeightsError
from bt_plugin.weights.tensors import State

# Names that DistributedDataParallel and torch.compile add to keys.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod)\.")
# The names of projectors, and the text between a name and the numbers of its layers.
_PROJECTORS = {"projector": "", "projection_head": "layers.", "projection_mlp": "layers."}
# A ResNet's children in order, for files in which nn.Sequential has numbered them.
_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc")


class Parts(NamedTuple):
    """The parts of a state dict."""

    kind: str
    backbone: State
    projector: State
    dropped: list[str]


def split(state: State, path: Path) -> Parts:
    """Recognize the layout, and return each part with its keys relative to the part.

    Args:
        state: All tensors of a file.
        path: The file, for messages.

    Raises:
        WeightsError: If the backbone cannot be a model of torchvision.

    Source:
        - official: facebookresearch/barlowtwins main.py:146-152 and 191-205 at 8e8d284, under
          DistributedDataParallel, and the backbone alone.
        - lightly: lightly-ai/lightly at e8d317f, examples/pytorch/barlowtwins.py:21-35,
          examples/pytorch_lightning/barlowtwins.py:22-28, benchmarks/imagenet/resnet50/barlowtwins.py:25-31, and the
          older lightly/models/barlowtwins.py:47-52.
        - solo-learn: vturrisi/solo-learn at 9187ea3, solo/methods/base.py:193-210 and barlow_twins.py:51-59. The older
          name of its backbone: main_linear.py:74-83.
    """
    state = {unwrapped(key): value for key, value in state.items()}
    if all(key.startswith("model.") for key in state):
        state = {key.removeprefix("model."): value for key, value in state.items()}
    sections: dict[str, State] = {}
    for key, value in state.items():
        section, _, rest = key.partition(".")
        sections.setdefault(section, {})[rest] = value
    # torchvision's vision transformers also have an encoder, but it is only a part of the backbone.
    backbone = next((name for name in ("backbone", "encoder") if _is_backbone(name, sections)), None)
    if backbone is None:
        return Parts("state-dict", named_children(state, path), {}, [])
    projector = next((name for name in _PROJECTORS if name in sections), None)
    between = _PROJECTORS[projector] if projector else ""
    layers = sections[projector] if projector else {}
    dropped = [
        f"{name} ({len(content)} {'tensor' if len(content) == 1 else 'tensors'})"
        for name, content in sections.items()
        if name not in (backbone, projector)
    ]
    kind = _kind(set(sections), projector)
    if kind == "solo-learn" and _has_small_stem(sections[backbone]):
        # No key stores this padding, but at 32 px the features differ by more than a third.
        dropped.append(
            "conv1's padding of 2 in solo-learn's small stem, which is 1 here. For the same features, give images a"
            " border of one pixel of zeros: torch.nn.functional.pad(images, (1, 1, 1, 1))"
        )
    layers = {key.removeprefix(between): value for key, value in layers.items()}
    return Parts(kind, named_children(sections[backbone], path), layers, dropped)


def unwrapped(key: str) -> str:
    """Return a key without the names that DistributedDataParallel and torch.compile add."""
    return _WRAPPERS.sub("", key)


def _is_backbone(name: str, sections: dict[str, State]) -> bool:
    return name in sections and (name == "backbone" or "conv1.weight" in sections[name])


def _kind(sections: set[str], projector: str | None) -> str:
    if projector in ("projection_head", "projection_mlp"):
        return "lightly"
    if projector and "bn" in sections:
        return "official"
    if projector and "classifier" in sections:
        return "solo-learn"
    return "state-dict"


def _has_small_stem(backbone: State) -> bool:
    return "conv1.weight" in backbone and backbone["conv1.weight"].shape[-1] == 3


def named_children(state: State, path: Path) -> State:
    """Restore the names of a ResNet that was cut into nn.Sequential. Return other weights unchanged.

    Args:
        state: A backbone's weights.
        path: The file, for messages.

    Raises:
        WeightsError: If the layers have no names, or belong to another ResNet.

    Source:
        Lightly's own ResNet: lightly-ai/lightly lightly/models/resnet.py:192-208 and 236 at e8d317f.
    """
    if not all(key.partition(".")[0].isdigit() for key in state):
        return state
    if any(re.match(r"[23]\.\d+\.conv1\.", key) for key in state):
        raise WeightsError(
            f"{path} has the backbone of Lightly's ResNetGenerator in nn.Sequential, which leaves out the ReLU after"
            " the first BatchNorm. The ResNets of torchvision and timm have it, so the features would differ. Train"
            " with torchvision's ResNet"
        )
    if any(int(key.partition(".")[0]) >= len(_CHILDREN) for key in state):
        raise WeightsError(
            f"{path} has a backbone in nn.Sequential that is no ResNet, so the names of its layers are unknown. Save"
            " the backbone with its own names"
        )
    return {
        f"{_CHILDREN[int(number)]}.{rest}": value
        for key, value in state.items()
        for number, _, rest in [key.partition(".")]
    }
