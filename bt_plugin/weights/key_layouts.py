"""Tell whose keys a state dict has, and which of them are the backbone's and the projector's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from bt_plugin.errors import WeightsError
from bt_plugin.weights.tensors import State

# Of DistributedDataParallel and torch.compile.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod)\.")
# A projector's name, and what stands between it and the numbers of its layers.
_PROJECTORS = {"projector": "", "projection_head": "layers.", "projection_mlp": "layers."}
# A ResNet's children in their order, where nn.Sequential has numbered them.
_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc")


class Parts(NamedTuple):
    """A state dict, split."""

    kind: str
    backbone: State
    projector: State
    dropped: list[str]


def split(state: State, path: Path) -> Parts:
    """Tell the layouts apart, and name each part's keys from its own beginning.

    Args:
        state: All tensors of a file.
        path: The file, for messages.

    Raises:
        WeightsError: If the backbone cannot be one of torchvision's.

    Source:
        official: facebookresearch/barlowtwins main.py:146-152 and 191-205 at 8e8d284, under DistributedDataParallel,
        and the backbone alone. lightly: lightly-ai/lightly at e8d317f, examples/pytorch/barlowtwins.py:21-35,
        examples/pytorch_lightning/barlowtwins.py:22-28, benchmarks/imagenet/resnet50/barlowtwins.py:25-31, and
        lightly/models/barlowtwins.py:47-52 of before. solo-learn: vturrisi/solo-learn at 9187ea3,
        solo/methods/base.py:193-210 and barlow_twins.py:51-59; its older name of the backbone, main_linear.py:74-83.
    """
    state = {unwrapped(key): value for key, value in state.items()}
    if all(key.startswith("model.") for key in state):
        state = {key.removeprefix("model."): value for key, value in state.items()}
    sections: dict[str, State] = {}
    for key, value in state.items():
        section, _, rest = key.partition(".")
        sections.setdefault(section, {})[rest] = value
    # torchvision's vision transformers have an encoder, too, which is no whole backbone.
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
        # No key says so, but of images of 32 px the features differ by more than a third.
        dropped.append(
            "conv1's padding of 2, which solo-learn's small stem has; it is 1 here: give images a border of one pixel"
            " of zeros, torch.nn.functional.pad(images, (1, 1, 1, 1)), for the same features"
        )
    layers = {key.removeprefix(between): value for key, value in layers.items()}
    return Parts(kind, named_children(sections[backbone], path), layers, dropped)


def unwrapped(key: str) -> str:
    """Return a key without the names of DistributedDataParallel and torch.compile."""
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
    """Return the weights of a ResNet that was cut into nn.Sequential under their names again; others as they are.

    Args:
        state: A backbone's weights.
        path: The file, for messages.

    Raises:
        WeightsError: If the layers have no names, or are those of another ResNet.

    Source:
        Lightly's own ResNet: lightly-ai/lightly lightly/models/resnet.py:192-208 and 236 at e8d317f.
    """
    if not all(key.partition(".")[0].isdigit() for key in state):
        return state
    if any(re.match(r"[23]\.\d+\.conv1\.", key) for key in state):
        raise WeightsError(
            f"{path} has the backbone of Lightly's ResNetGenerator in nn.Sequential, which leaves out the ReLU after"
            " the first BatchNorm; torchvision's and timm's ResNets have it, so the features would be others. Train"
            " with torchvision's ResNet"
        )
    if any(int(key.partition(".")[0]) >= len(_CHILDREN) for key in state):
        raise WeightsError(
            f"{path} has a backbone in nn.Sequential that is no ResNet, so its layers' names are unknown; save the"
            " backbone with its own names"
        )
    return {
        f"{_CHILDREN[int(number)]}.{rest}": value
        for key, value in state.items()
        for number, _, rest in [key.partition(".")]
    }
