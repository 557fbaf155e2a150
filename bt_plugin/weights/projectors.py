"""Convert other programs' projectors to build_projector's layers. The loss of the embeddings stays the same."""

from __future__ import annotations

import torch
from torch import Tensor

from bt_plugin.models.barlow_twins import build_projector
from bt_plugin.weights.tensors import State


def to_official(layers: State, feature_dim: int) -> tuple[State | None, list[str]]:
    """Return a projector in the keys of build_projector, and a list of what is left out.

    The Linear layers of build_projector have no bias. A bias before a BatchNorm moves into its running mean, which
    changes no output. A bias of the last layer is dropped, because the loss standardizes the embeddings.

    Args:
        layers: Weights by key, "NUMBER.weight" and so on. Empty without a projector.
        feature_dim: Number of the backbone's features.

    Source:
        Biases of the last layer: lightly-ai/lightly lightly/models/modules/heads.py:49 and 95 at e8d317f. Biases of all
        layers: vturrisi/solo-learn solo/methods/barlow_twins.py:51-59 at 9187ea3.
    """
    if not layers:
        return None, []
    other = [f"the projector, because its layers differ from build_projector's: {', '.join(layers)}"]
    if not all(key.partition(".")[0].isdigit() for key in layers):
        return None, other
    linears = sorted(int(key.removesuffix(".weight")) for key in layers if _is_linear(key, layers[key]))
    if not linears or linears != list(range(0, 3 * len(linears), 3)):
        return None, other
    widths = [layers[f"{index}.weight"].shape[0] for index in linears]
    with torch.device("meta"):
        expected = {key: value.shape for key, value in build_projector(feature_dim, widths).state_dict().items()}
    biases = {index: layers[f"{index}.bias"] for index in linears if f"{index}.bias" in layers}
    state = {key: value for key, value in layers.items() if key not in {f"{index}.bias" for index in biases}}
    if {key: value.shape for key, value in state.items()} != expected:
        return None, other
    for index in linears[:-1]:
        if index in biases:
            mean = f"{index + 1}.running_mean"
            state[mean] = state[mean] - biases[index]
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    last = linears[-1]
    unseen = [f"the bias of the projector's layer {last}, which does not change the loss"] if last in biases else []
    return state, unseen


def _is_linear(key: str, value: Tensor) -> bool:
    number, _, rest = key.partition(".")
    return number.isdigit() and rest == "weight" and value.ndim == 2
