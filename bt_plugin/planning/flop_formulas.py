"""Floating-point operations of torch's products, for CPUs and GPUs alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten


def _convolution_backward(
    gradient: Tensor, images: Tensor, weight: Tensor, *options: Any, out_val: Any, **further: Any
) -> int:
    groups, wanted = options[6], options[7]
    if groups == 1:
        return int(flop_registry[_ATEN.convolution_backward](gradient, images, weight, *options, out_val=out_val))
    # torch counts the gradient of the weights as if every output saw all inputs, 384 times too much for a ConvNeXt.
    each = 2 * gradient.numel() * weight[0].numel()
    return int(each * sum(wanted[:2]))


# torch counts attention on GPUs only. The same formulas hold for its kernel on CPUs.
FLOP_FORMULAS = {
    **flop_registry,
    _ATEN.convolution_backward: _convolution_backward,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}
