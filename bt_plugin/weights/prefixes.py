"""Find a known network inside a checkpoint: the prefix that precedes the network's own keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bt_plugin.errors import WeightsError
from bt_plugin.weights.architecture import Fitted, first_key, match_backbone, read_backbone
from bt_plugin.weights.checkpoint_file import MOST_KEY_LENGTH, STATES
from bt_plugin.weights.key_layouts import named_children, unwrapped
from bt_plugin.weights.tensors import State, UnknownLayoutError, plain, shown, some

# The first key and one more of a ResNet with its own names, and of a ResNet that was cut into nn.Sequential.
_RESNET_KEYS = (("conv1.weight", "layer1.0.conv1.weight"), ("0.weight", "4.0.conv1.weight"))
# Pairs of names: the network that methods evaluate, and its copy or the other network.
_PAIRS = (
    ("encoder_q", "encoder_k"),
    ("query_encoder", "key_encoder"),
    ("base_encoder", "momentum_encoder"),
    ("encoder", "momentum_encoder"),
    ("encoder", "encoder_momentum"),
    ("backbone", "momentum_backbone"),
    ("backbone", "backbone_momentum"),
    ("model", "momentum_model"),
    ("teacher", "student"),
    ("teacher_backbone", "student_backbone"),
    ("teacher_embedding_model", "student_embedding_model"),
    ("online", "target"),
    ("online_encoder", "target_encoder"),
    ("online_network", "target_network"),
    ("online_backbone", "target_backbone"),
    ("backbone", "target_backbone"),
)
# The deepest real checkpoint has four levels, and the largest about ten thousand tensors.
_MOST_LEVELS = 8
_MOST_ENTRIES = 200_000
_MOST_PREFIXES = 64


def find_network(
    content: dict[Any, Any], backbone: str | None, *, path: Path, reason: UnknownLayoutError
) -> tuple[Fitted, list[str]]:
    """Find the one prefix that precedes the keys of a known network, and name everything else in the file.

    Two networks with the same values count as one. A network is preferred to its momentum copy, and DINO's teacher to
    the student.

    Args:
        content: Content of a file. Its tensors may be nested.
        backbone: "torchvision/NAME" or "timm/NAME", None for torchvision's ResNets.
        path: The file, for messages.
        reason: Error that says why the file has none of the known layouts, for the message.

    Returns:
        The backbone and what is left out.

    Raises:
        WeightsError: If no network is found, several remain, or the network cannot be used.

    Source:
        MoCo: facebookresearch/moco main_lincls.py at 010242b takes module.encoder_q; facebookresearch/moco-v3
        moco/builder.py:38-66 at 0c5d00a, base_encoder. VISSL: facebookresearch/vissl vissl/models/trunks/resnext.py at
        0832020, _feature_blocks, below classy_state_dict, base_model, model, trunk. DINO: facebookresearch/dino
        main_dino.py at 04c0ad9, student and teacher; its evaluations take teacher by default. BYOL:
        lucidrains/byol-pytorch byol_pytorch/byol_pytorch.py at 0095aa4, net, online_encoder.net, target_encoder.net.
        LightlyTrain 0.18: _methods/dino/dino.py:236-246, teacher_embedding_model.
    """
    state = _flattened(content, path)
    parts: dict[str, State] = {}
    refused: WeightsError | None = None
    for prefix in _prefixes(state, backbone):
        try:
            part = named_children(_under(state, prefix), path)
        except WeightsError as error:
            refused = error
            continue
        if match_backbone(part, backbone)[0]:
            parts[prefix] = part
    parts = _distinct(_preferred(parts))
    if len(parts) > 1:
        raise WeightsError(
            f"{path} has several networks (under {', '.join(map(shown, parts))}). Choose one of them with --prefix"
        )
    if parts:
        prefix, part = next(iter(parts.items()))
        return _taken(state, prefix, part, backbone, path)
    if refused or not state:
        raise refused or reason
    name = "" if "--backbone" in str(reason) else ". Give its backbone with --backbone torchvision/NAME or timm/NAME"
    raise WeightsError(
        f"{reason}{name}. Its keys begin with {some(_sections(state))}. Give the prefix of the network with --prefix"
    ) from reason


def network_under(
    content: dict[Any, Any], prefix: str, *, backbone: str | None, path: Path
) -> tuple[Fitted, list[str]]:
    """Return the network whose keys begin with a prefix, and name everything else in the file.

    Args:
        content: Content of a file.
        prefix: Beginning of the keys, for example "teacher.backbone". The usual levels of checkpoints, such as
            state_dict, and wrappers, such as module, may be left out.
        backbone: "torchvision/NAME" or "timm/NAME", None for torchvision's ResNets.
        path: The file, for messages.

    Raises:
        WeightsError: If no key begins with the prefix, or the keys do not fit the network.
    """
    state = _flattened(content, path)
    wanted = unwrapped(f"{prefix.rstrip('.')}." if prefix.rstrip(".") else "")
    for start in (wanted, *(f"{level}.{wanted}" for level in STATES)):
        if part := _under(state, start):
            return _taken(state, start, named_children(part, path), backbone, path)
    raise WeightsError(
        f"--prefix: no key of {path} begins with {shown(prefix)}. Its keys begin with {some(_sections(state))}"
    )


def _taken(state: State, prefix: str, part: State, backbone: str | None, path: Path) -> tuple[Fitted, list[str]]:
    fitted = read_backbone(part, backbone, path=path, where=shown(prefix))
    others = _sections({key: value for key, value in state.items() if not key.startswith(prefix)})
    return fitted, [f"everything not under {shown(prefix)}: {some(others)}"] if others else []


def _flattened(content: dict[Any, Any], path: Path) -> State:
    """Return all tensors by key. Dots join the levels of a key, and names of wrappers are left out."""
    state: State = {}
    entries = 0
    levels = [("", content)]
    for _ in range(_MOST_LEVELS):
        below = []
        for prefix, level in levels:
            for key, value in dict.items(level):
                entries += 1
                # Keys that are numbers belong to an optimizer, never to a network.
                if entries > _MOST_ENTRIES or not isinstance(key, str) or len(prefix) + len(key) > MOST_KEY_LENGTH:
                    continue
                if isinstance(value, Tensor):
                    state.setdefault(unwrapped(f"{prefix}{key}"), plain(value, key, path))
                elif isinstance(value, dict):
                    below.append((f"{prefix}{key}.", value))
        levels = below
    return state


def _prefixes(state: State, backbone: str | None) -> list[str]:
    """Return the prefixes that precede the keys of a network, the shortest first."""
    keys = [(first_key(backbone), first_key(backbone))] if backbone else []
    found = {prefix for first, second in (*keys, *_RESNET_KEYS) for prefix in _before(state, first, second)}
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))[:_MOST_PREFIXES]


def _before(state: State, first: str, second: str) -> Iterator[str]:
    for key in state:
        prefix = key.removesuffix(first)
        if prefix != key and (not prefix or prefix.endswith(".")) and prefix + second in state:
            yield prefix


def _under(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _distinct(parts: dict[str, State]) -> dict[str, State]:
    """Leave out parts that equal an earlier part in every value, because a network may have two names."""
    kept: dict[str, State] = {}
    for prefix, part in parts.items():
        if not any(_same(part, other) for other in kept.values()):
            kept[prefix] = part
    return kept


def _same(part: State, other: State) -> bool:
    common = part.keys() & other.keys()
    return bool(common) and all(_equal(part[key], other[key]) for key in common)


def _equal(value: Tensor, other: Tensor) -> bool:
    if value.layout is not torch.strided or other.layout is not torch.strided or value.is_meta or other.is_meta:
        return False
    same_place = value.data_ptr() == other.data_ptr() and value.stride() == other.stride()
    return value.shape == other.shape and (same_place or torch.equal(value, other))


def _preferred(parts: dict[str, State]) -> dict[str, State]:
    """Leave out parts whose name is the second of a pair, if the first is there."""
    return {prefix: part for prefix, part in parts.items() if not any(other in parts for other in _better(prefix))}


def _better(prefix: str) -> Iterator[str]:
    names = prefix.split(".")
    for index, name in enumerate(names):
        for preferred, other in _PAIRS:
            if name == other:
                yield ".".join([*names[:index], preferred, *names[index + 1 :]])


def _sections(state: State) -> list[str]:
    """Return the first name of the keys with the number of tensors, or the first two names below a usual level."""
    counts: dict[str, int] = {}
    for key in state:
        section = ".".join(key.split(".")[: 2 if key.split(".")[0] in STATES else 1])
        counts[section] = counts.get(section, 0) + 1
    return [f"{section} ({count} {'tensor' if count == 1 else 'tensors'})" for section, count in counts.items()]
