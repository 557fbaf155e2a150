"""Recompute activations in the backward pass instead of keeping them. This saves memory and costs a forward pass.

torch.utils.checkpoint computes a part of the network without keeping what its backward pass needs. The backward pass
runs the part again, with the same random states, and so gets the same gradient. Two things of ours are added: the
second run must not move BatchNorm's running statistics again, and must not be listed in SyncBatchNorm.seen.

The class of a module is changed in place, as in memory_format.py. So parameters, their names and checkpoints stay, and
FSDP and copy.deepcopy work as before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from bt_plugin.config.model import ActivationCheckpointing
from bt_plugin.errors import RecipeError
from bt_plugin.models.sync_batch_norm import SyncBatchNorm
from bt_plugin.models.unmoved_buffers import unmoved_buffers

_CONTAINERS = (nn.Sequential, nn.ModuleList)


def checkpoint_activations(backbone: nn.Module, parts: ActivationCheckpointing, *, compiled: bool) -> None:
    """Let a backbone recompute its activations in the backward pass, in place. Call it after other changes of modules.

    Args:
        backbone: Network to change. Its gradients and statistics stay the same.
        parts: What is recomputed at a time. "none": nothing. "blocks": each of blocks_of. "full": the whole backbone.
        compiled: Whether torch.compile will compile the backbone.

    Raises:
        RecipeError: If parts is "blocks" and the backbone has none, or if a compiled backbone has BatchNorm.

    Examples:
        >>> backbone, _ = build_backbone("torchvision/resnet18")
        >>> checkpoint_activations(backbone, "blocks", compiled=False)
    """
    if parts == "none":
        return
    key = f"model.activation_checkpointing: {parts}"
    modules = blocks_of(backbone) if parts == "blocks" else [backbone]
    if not modules:
        raise RecipeError(f"{key} is not allowed for this backbone, which has no repeated blocks. Use full or none")
    if compiled and any(isinstance(module, _BatchNorm) for module in backbone.modules()):
        # Where torch.compile breaks the graph, as at SyncBatchNorm, the statistics would move twice.
        raise RecipeError(
            f"{key} is not allowed with run.compile for a backbone with BatchNorm. Set run.compile to false, or"
            " model.activation_checkpointing to none"
        )
    # A function of the user's may return the same network again.
    kinds = {type(module) for module in modules if not isinstance(module, _Checkpointed)}
    classes = {kind: _checkpointed(kind) for kind in kinds}
    for module in modules:
        module.__class__ = classes.get(type(module), type(module))


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a network, such as the residual blocks of a ResNet or the layers of a transformer.

    A class is repeated if an nn.Sequential or nn.ModuleList has two or more items of it. Layers without children are
    no blocks. If a block contains others, as the stages of a ConvNeXt do, the inner ones count. Some networks have
    none, such as a VGG.

    Args:
        backbone: Any network.
    """
    lists = [list(module) for module in backbone.modules() if isinstance(module, _CONTAINERS)]
    counts = [Counter(map(type, items)) for items in lists]
    repeated = {kind for count in counts for kind, number in count.items() if number > 1}
    items = {
        item: None  # a set in the network's order
        for item in chain.from_iterable(lists)
        if type(item) in repeated and not isinstance(item, _CONTAINERS) and list(item.children())
    }
    return [item for item in items if not any(inner in items for inner in item.modules() if inner is not item)]


class _Checkpointed(nn.Module):
    """What a module's class gets as its first base."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        forward = super().forward
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if torch.compiler.is_compiling():
            # The compiled graph moves buffers once, and torch allows no other contexts there.
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _without_trace(self)


def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a class of the same name whose forward pass is checkpointed. FSDP's wrapping policies go by the name."""
    return type(kind.__name__, (_Checkpointed, kind), {"__module__": kind.__module__})


@contextmanager
def _without_trace(module: nn.Module) -> Iterator[None]:
    """Run a forward pass that leaves buffers and lists of statistics as they are. torch may end it early."""
    layers = [layer for layer in module.modules() if isinstance(layer, SyncBatchNorm)]
    lists = [layer.seen for layer in layers]
    for layer in layers:
        layer.seen = None
    try:
        with unmoved_buffers(module):
            yield
    finally:
        for layer, seen in zip(layers, lists):
            layer.seen = seen
