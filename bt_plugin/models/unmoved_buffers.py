"""Run a module's forward pass once more without another trace in its buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def unmoved_buffers(module: nn.Module) -> Iterator[None]:
    """Restore all buffers of a module at the end, such as BatchNorm's running statistics, even after an error.

    Args:
        module: Module whose forward pass may run inside.
    """
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
