"""In which order the numbers of images and weights lie in memory; results differ by rounding alone.

GPUs multiply matrices fastest channels_last. On a CPU it depends on the layer: the wide and shallow ones at the
beginning of a ResNet are faster channels_last, those of many channels and few pixels are not, and oneDNN's gradient of
their weights takes three times as long as a matrix product (measured on two cores with AVX-512 in float32: ResNet-18,
64 px, batch 64, 0.80 of the time of contiguous weights; benchmarks/step.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_input

# Of a convolution's output, in pixels.
_MOST_PIXELS_CONTIGUOUS = 4 * 4
_MOST_PIXELS_BY_PLACES = 3 * 3


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
    """Each in the layout, and the smallest by the products, that are fastest on a CPU."""

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
        by_places = height * width <= _MOST_PIXELS_BY_PLACES and self.kernel_size != (1, 1) and self.bias is None
        if not by_places or torch.is_autocast_enabled(images.device.type):
            return super().forward(images)
        output: Tensor = _GradientByPlaces.apply(images, self.weight, self.stride, self.padding, self.dilation)
        return output


class _GradientByPlaces(torch.autograd.Function):
    """A convolution whose gradients are sums over the kernel's places, each one matrix product of the pixels there.

    Where an output has few pixels, most places of a padded kernel meet few of them, and the products are large.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, *options: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.options = options
        stride, padding, dilation = options
        return functional.conv2d(images, weight, None, stride, padding, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        places = list(_places(images.shape[2:], gradient.shape[2:], weight.shape[2:], *ctx.options))
        at, of_output = _pixels_first(images), _pixels_first(gradient)
        of_images = of_weight = None
        if ctx.needs_input_grad[0] and max(ctx.options[0]) == 1:
            of_images = conv2d_input(images.shape, weight, gradient, *ctx.options)
        elif ctx.needs_input_grad[0]:
            kernel, of_pixels = _pixels_first(weight), torch.zeros_like(at)
            for place, inside, outside in places:
                of_pixels[inside] += of_output[outside] @ kernel[place]
            of_images = of_pixels.permute(2, 3, 0, 1).contiguous()
        if ctx.needs_input_grad[1]:
            of_kernel = torch.zeros_like(_pixels_first(weight))
            for place, inside, outside in places:
                torch.mm(of_output[outside].flatten(0, 2).T, at[inside].flatten(0, 2), out=of_kernel[place])
            of_weight = of_kernel.permute(2, 3, 0, 1).contiguous()
        return of_images, of_weight, None, None, None


def _pixels_first(tensor: Tensor) -> Tensor:
    """(n, c, height, width) to (height, width, n, c)."""
    return tensor.permute(2, 3, 0, 1).contiguous()


_Slices = tuple[slice, slice]


def _places(*by_axis: Sequence[int]) -> Iterator[tuple[tuple[int, int], _Slices, _Slices]]:
    """Of the kernel: which, and the pixels of images and of the output that meet there. By axis as for _along."""
    rows, columns = (list(_along(*axis)) for axis in zip(*by_axis))
    for (row, *of_rows), (column, *of_columns) in product(rows, columns):
        inside, outside = zip(of_rows, of_columns)
        yield (row, column), inside, outside


def _along(
    images: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int
) -> Iterator[tuple[int, slice, slice]]:
    """The same along one axis, of these sizes."""
    for place in range(kernel):
        offset = place * dilation - padding
        inside = [pixel for pixel in range(outputs) if 0 <= pixel * stride + offset < images]
        if inside:
            first, last = inside[0], inside[-1]
            yield place, slice(first * stride + offset, last * stride + offset + 1, stride), slice(first, last + 1)
