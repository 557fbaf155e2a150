"""In which order the numbers of images and weights lie in memory; results differ by rounding alone.

GPUs multiply matrices fastest channels_last. On a CPU it depends on the layer: the wide and shallow ones at the
beginning of a ResNet are faster channels_last, those of many channels and few pixels are not, and oneDNN's gradient of
their weights takes three times as long as a matrix product (measured on two cores with AVX-512 in float32: ResNet-18,
64 px, batch 64, 0.80 of the time of contiguous weights; benchmarks/step.py).
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_input

# Of a convolution's output, in pixels.
_MOST_PIXELS_CONTIGUOUS = 4 * 4
_MOST_PIXELS_BY_PRODUCT = 2 * 2


M = TypeVar("M", bound=nn.Module)


def lay_out(model: M, memory_format: str, by_layer: bool) -> M:
    """The model with its weights as they are fastest; it takes images in either layout.

    Args:
        model: Whose parameters and their names stay.
        memory_format: channels_last, contiguous, or auto.
        by_layer: Whether auto means each layer's own, and not channels_last.
    """
    if memory_format == "auto" and by_layer:
        for module in model.modules():
            # Subclasses have their own ways, and depthwise convolutions other needs.
            if type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros":
                module.__class__ = _LayoutByLayer
        return model
    return model if memory_format == "contiguous" else model.to(memory_format=torch.channels_last)


class _LayoutByLayer(nn.Conv2d):
    """Each in the layout, and the smallest by the product, that is fastest on a CPU."""

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or isinstance(self.padding, str):
            return super().forward(images)
        height, width = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, padding, dilation, kernel, stride in zip(
                images.shape[2:], self.padding, self.dilation, self.kernel_size, self.stride
            )
        )
        is_small = height * width <= _MOST_PIXELS_CONTIGUOUS
        layout = torch.contiguous_format if is_small else torch.channels_last
        images = images.contiguous(memory_format=layout)
        by_product = height * width <= _MOST_PIXELS_BY_PRODUCT and self.kernel_size != (1, 1) and self.bias is None
        if not by_product or torch.is_autocast_enabled(images.device.type):
            return super().forward(images)
        output: Tensor = _GradientByProduct.apply(images, self.weight, self.stride, self.padding, self.dilation)
        return output


class _GradientByProduct(torch.autograd.Function):
    """A convolution, with the gradient of its weights as one matrix product over all patches."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.options = {"stride": stride, "padding": padding, "dilation": dilation}
        return functional.conv2d(images, weight, **ctx.options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = conv2d_input(images.shape, weight, gradient, **ctx.options)
        if ctx.needs_input_grad[1]:
            patches = functional.unfold(images, weight.shape[2:], **ctx.options)
            by_channel = (part.transpose(0, 1).flatten(1) for part in (gradient.flatten(2), patches))
            of_weight = torch.inner(*by_channel).view_as(weight)
        return of_images, of_weight, None, None, None
