"""Choose the memory layout of images and weights. Results differ by rounding only.

GPUs are fastest with channels_last. On a CPU the fastest layout depends on the layer:

- The first layers of a ResNet, with many pixels and few channels, are faster with channels_last.
- Layers with few pixels and many channels are faster with contiguous weights.
- For the layers with the fewest pixels, oneDNN's gradient of the weights takes three times as long as matrix products.

On two cores with AVX-512 in float32, a choice for each layer takes 0.85 of the time of contiguous weights (ResNet-18,
64 px, batch 64; benchmarks/records/2026-11-24_step.json).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Limits on height times width of a convolution's output, in pixels.
_MOST_PIXELS_CONTIGUOUS = 4 * 4
_MOST_PIXELS_BY_PLACES = 3 * 3


M = TypeVar("M", bound=nn.Module)
_Slices = tuple[slice, slice, slice]
# A place of the kernel, and the slices of images and of output, (n, height, width, channels), that meet there.
_Place = tuple[tuple[int, int], _Slices, _Slices]


def lay_out(model: M, memory_format: str, by_layer: bool) -> M:
    """Return the model with its weights in the wanted layout. It accepts images in any layout.

    Args:
        model: Model to lay out. Its parameters keep their names.
        memory_format: Layout of the weights: channels_last, contiguous or auto.
        by_layer: Whether auto chooses the layout for each layer. Otherwise auto is channels_last.
    """
    if memory_format == "auto" and by_layer:
        for module in model.modules():
            # Subclasses may compute something else, and depthwise convolutions are fastest with another layout.
            if type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros":
                module.__class__ = _LayoutByLayer
        return model
    return model if memory_format == "contiguous" else model.to(memory_format=torch.channels_last)


class _LayoutByLayer(nn.Conv2d):
    """A convolution that uses the layout that is fastest on a CPU for its size, and matrix products if it is small."""

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or isinstance(self.padding, str):
            return super().forward(images)
        height, width = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, padding, dilation, kernel, stride in zip(
                images.shape[2:], self.padding, self.dilation, self.kernel_size, self.stride
            )
        )
        by_products = height * width <= _MOST_PIXELS_BY_PLACES and not torch.is_autocast_enabled(images.device.type)
        is_contiguous = height * width <= _MOST_PIXELS_CONTIGUOUS and not by_products
        images = images.contiguous(memory_format=torch.contiguous_format if is_contiguous else torch.channels_last)
        if not by_products or self.kernel_size == (1, 1):
            return super().forward(images)
        places = _places(images.shape[2:], (height, width), self.kernel_size, self.stride, self.padding, self.dilation)
        output: Tensor = _ByPlaces.apply(images, self.weight, (height, width), list(places))
        return output if self.bias is None else output + self.bias[:, None, None]


class _ByPlaces(torch.autograd.Function):
    """A convolution as a sum over the places of its kernel. Each place is one matrix product.

    In a small output, most places of a padded kernel meet few pixels. With 2 x 2 pixels and 3 x 3 places, only 16 of
    36 pairs are not padding. Images and output are channels_last, so that their pixels are rows of matrices in memory.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, size: tuple[int, int], places: list[_Place]) -> Tensor:
        # (height, width, outputs, inputs): one matrix for each place.
        kernel = weight.permute(2, 3, 0, 1).contiguous()
        ctx.save_for_backward(images, kernel)
        ctx.places = places
        at = images.permute(0, 2, 3, 1)
        output = at.new_zeros(len(at), *size, len(weight))
        for place, inside, outside in places:
            _add_product(output[outside], at[inside], kernel[place].T)
        return output.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, kernel = ctx.saved_tensors
        at, of_output = images.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1).contiguous()
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_pixels = torch.zeros_like(at)
            for place, inside, outside in ctx.places:
                _add_product(of_pixels[inside], of_output[outside], kernel[place])
            of_images = of_pixels.permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            meets_all = len(ctx.places) == kernel.shape[0] * kernel.shape[1]
            of_kernel = torch.empty_like(kernel) if meets_all else torch.zeros_like(kernel)
            for place, inside, outside in ctx.places:
                torch.mm(of_output[outside].flatten(0, 2).T, at[inside].flatten(0, 2), out=of_kernel[place])
            of_weight = of_kernel.permute(2, 3, 0, 1).contiguous()
        return of_images, of_weight, None, None


def _add_product(to: Tensor, pixels: Tensor, matrix: Tensor) -> None:
    """Add pixels, (n, height, width, channels), times a matrix to other pixels."""
    to += (pixels.flatten(0, 2) @ matrix).view(to.shape)


def _places(*by_axis: Sequence[int]) -> Iterator[_Place]:
    """Yield each place of a kernel with the slices that meet there. Each argument has the sizes of both axes."""
    rows, columns = (list(_along(*axis)) for axis in zip(*by_axis))
    for (row, *of_rows), (column, *of_columns) in product(rows, columns):
        inside, outside = zip(of_rows, of_columns)
        every = slice(None)
        yield (row, column), (every, *inside), (every, *outside)


def _along(
    images: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int
) -> Iterator[tuple[int, slice, slice]]:
    """Yield the same along one axis."""
    for place in range(kernel):
        offset = place * dilation - padding
        inside = [pixel for pixel in range(outputs) if 0 <= pixel * stride + offset < images]
        if inside:
            first, last = inside[0], inside[-1]
            yield place, slice(first * stride + offset, last * stride + offset + 1, stride), slice(first, last + 1)
