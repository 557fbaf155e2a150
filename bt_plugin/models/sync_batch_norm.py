"""BatchNorm over the batch of all ranks, exact on CPUs and GPUs, without a wait of the host."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from bt_plugin.runtime import collectives

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)

# Named and not imported, because timm is imported only where a recipe uses it.
_TIMM_LAYER = ("timm.layers.norm_act", "BatchNormAct2d")


class SyncBatchNorm(_BatchNorm):
    """BatchNorm whose statistics in training are those of all ranks' samples.

    Every rank must have the same number of samples, which BarlowTwinsLoss checks. So no counts are exchanged, and the
    host reads nothing. torch.nn.SyncBatchNorm allows other numbers, waits for the GPU twice in each layer for it, and
    does not run on a CPU. Parameters, buffers and their names are those of nn.BatchNorm.

    Shape:
        - Input: (n, C, ...) floating point, this rank's samples.
        - Output: as the input.
    """

    seen: list[Tensor] | None = None
    """Where the layer appends each batch's mean and variance by rank, (W, 2 C), if a caller has set it."""

    def forward(self, input: Tensor) -> Tensor:  # the name is torch's
        if not self.training or collectives.world_size() == 1:
            return super().forward(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        output: Tensor = self._normalized(input)
        return output

    @torch.compiler.disable  # type: ignore[untyped-decorator] # collectives are no part of a compiled graph
    def _normalized(self, input: Tensor) -> Tensor:
        output: Tensor = _Normalize.apply(input, self.weight, self.bias, self)
        return output

    def track(self, mean: Tensor, variance: Tensor, samples: int) -> None:
        """Move the running statistics towards those of a batch of so many samples."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.momentum is not None, "a cumulative average needs the count, which the host would have to read"
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * (samples / (samples - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions from two on."""


class SyncBatchNormAct(SyncBatchNorm):
    """The same for timm's BatchNormAct2d, which applies its own dropout and activation after the BatchNorm."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.act(self.drop(super().forward(input)))
        return output


def synchronize_batch_norm(model: M) -> M:
    """Give every BatchNorm of a model the statistics of all ranks, in place. Weights and their names stay.

    Subclasses of BatchNorm that are not known here keep their rank's statistics, with a warning.

    Args:
        model: Model to change, before DistributedDataParallel wraps it.
    """
    others = set()
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = SyncBatchNorm
        elif (type(module).__module__, type(module).__name__) == _TIMM_LAYER:
            module.__class__ = SyncBatchNormAct
        elif isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
            others.add(type(module).__name__)
    if others and collectives.is_main():
        logger.warning("Each rank keeps its own statistics in layers of the classes %s.", ", ".join(sorted(others)))
    return model


def finite_ranks(seen: list[Tensor], otherwise: Tensor) -> Tensor:
    """Return which ranks were finite where a forward pass first was not. The host does not wait.

    Synchronized statistics carry a NaN of one rank to all others, so their embeddings do not tell where it began.

    Args:
        seen: Statistics of all layers, in the order in which the layers computed them.
        otherwise: Result if all statistics are finite, or there are none.

    Shape:
        - seen: (W, 2 C) for each layer and batch.
        - otherwise: (W,) bool.
        - Output: (W,) bool.
    """
    if not seen:
        return otherwise
    finite = torch.cat(seen, dim=1).isfinite()
    spoilt = finite.all(dim=0).logical_not()
    first = spoilt.int().argmax()
    return torch.where(spoilt.any(), finite.index_select(1, first.unsqueeze(0)).squeeze(1), otherwise)


class _Normalize(torch.autograd.Function):
    """Standardize by the statistics of all ranks. Forward and backward have one collective each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: SyncBatchNorm) -> Tensor:
        dims = [0, *range(2, x.ndim)]
        variance, mean = torch.var_mean(_accumulated(x), dims, correction=0)
        ranks = collectives.all_gather(torch.stack((mean, variance)))
        if layer.seen is not None:
            layer.seen.append(ranks.detach().flatten(start_dim=1))
        mean = ranks[:, 0].mean(dim=0)
        # Chan et al. 1983: variances add up around the common mean without cancellation.
        variance = (ranks[:, 1] + (ranks[:, 0] - mean).square()).mean(dim=0)
        samples = x.numel() // x.shape[1] * len(ranks)
        layer.track(mean, variance, samples)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.samples, ctx.eps = samples, layer.eps
        dtype = x.dtype if weight is None else weight.dtype
        return functional.batch_norm(x, mean.to(dtype), variance.to(dtype), weight, bias, eps=layer.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        weights = torch.ones_like(mean) if weight is None else weight
        # With train=False the statistics are given, and one kernel computes both sums of this rank.
        given = mean.to(weights.dtype), variance.to(weights.dtype)
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weights, *given, None, None, False, ctx.eps, [False, True, True]
        )
        # Those of the parameters stay the rank's own: DistributedDataParallel averages them.
        sums = torch.stack((of_bias, of_weight)).to(mean.dtype)
        mean_bias, mean_weight = collectives.all_reduce_sum_(sums) / ctx.samples
        inv_std = (variance + ctx.eps).rsqrt()
        scale = inv_std * weights
        # scale * (gradient - mean_bias - mean_weight * standardized x). Each operation reads the whole batch, so they
        # are few. Sums are in float32, and only the last operation rounds to the type of x.
        by_channel = -scale * mean_bias, -scale * mean_weight * inv_std, scale, mean
        shape = [1, -1, *[1] * (x.ndim - 2)]
        shift, factor, scale, mean = (values.view(shape) for values in by_channel)
        centered = x - mean
        torch.addcmul(shift, centered, factor, out=centered)
        of_x = torch.addcmul(centered, gradient, scale, out=torch.empty_like(x))
        parameters = (None, None) if weight is None else (of_weight.to(weight.dtype), of_bias.to(weight.dtype))
        return of_x, *parameters, None


def _accumulated(x: Tensor) -> Tensor:
    """Return the tensor in the precision in which it is summed."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
