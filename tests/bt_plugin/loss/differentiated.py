"""What a module does and learns, to be compared with another's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gradients(module: nn.Module, images: Tensor) -> list[Tensor]:
    """The output, and the gradients by images and weights."""
    images = images.detach().requires_grad_()
    output = module(images)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    return [output, *torch.autograd.grad((output * weights).sum(), [images, *module.parameters()])]
