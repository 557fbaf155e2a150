"""The Barlow Twins objective over the global batch.

With z_a and z_b standardised per feature over the N samples of all ranks and C = z_a^T z_b / N,

    loss = sum_i (1 - C_ii)^2 + lambda * sum_{i != j} C_ij^2.

The gradient has a closed form, so it is computed together with the value and kept instead of the
graph: no D x D matrix outlives the forward pass, and the backward pass needs no collective.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bt_plugin import distributed

# As torch.nn.BatchNorm1d, by which the official code standardises: main.py:206 at 8e8d284.
EPS = 1e-5

Form = Literal["auto", "cross", "gram"]


class LossTerms(NamedTuple):
    """The loss and its two terms; loss = invariance + lambda_param * redundancy.

    Only the loss has a gradient.
    """

    loss: Tensor
    invariance: Tensor
    redundancy: Tensor


class BarlowTwinsLoss(nn.Module):
    """Barlow Twins loss [0], a drop-in for lightly.loss.BarlowTwinsLoss.

    Where Lightly's standardises by each rank's own batch, gather_distributed=True here gives the
    value, and after DistributedDataParallel's averaging the gradient, of one rank that holds all
    samples. Computed in float32 whatever autocast says, in float64 for float64 inputs.

    - [0]: Barlow Twins, 2021, https://arxiv.org/abs/2103.03230

    Args:
        lambda_param: Weight of the redundancy-reduction term, 0 or more.
        gather_distributed: Whether the batch is that of all ranks, or this rank's own.
        form: How the redundancy-reduction term is computed: "cross" over the D x D matrix C, "gram"
            over N x N matrices, "auto" whichever takes less arithmetic. The values are equal.

    Raises:
        ValueError: If an argument is out of range, or torch.distributed is asked for and missing.

    Examples:
        >>> loss_fn = BarlowTwinsLoss(gather_distributed=True)
        >>> loss = loss_fn(model(view_a), model(view_b))
    """

    def __init__(self, lambda_param: float = 5e-3, gather_distributed: bool = False, form: Form = "auto") -> None:
        super().__init__()
        if lambda_param < 0:
            raise ValueError(f"lambda_param: {lambda_param} is not allowed; it must be 0 or more")
        if form not in ("auto", "cross", "gram"):
            raise ValueError(f"form: {form!r} is not allowed; it must be auto, cross or gram")
        if gather_distributed and not distributed.is_available():
            raise ValueError(
                "gather_distributed: True is not allowed, this torch has no torch.distributed; set it to False"
            )
        self.lambda_param = lambda_param
        self.gather_distributed = gather_distributed
        self.form: Form = form

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss.

        Args:
            z_a: Embeddings of the first views.
            z_b: Embeddings of the second views.

        Shape:
            - z_a, z_b: (n, D), this rank's samples; every rank the same n.
            - Output: scalar float32 (float64 for float64), the same on every rank where gathered.

        Raises:
            ValueError: If the shapes differ or the batch has fewer than two samples.
        """
        return self.terms(z_a, z_b).loss

    def terms(self, z_a: Tensor, z_b: Tensor) -> LossTerms:
        """The loss and its two terms, for logging; arguments as forward's."""
        if z_a.ndim != 2 or z_a.shape != z_b.shape:
            raise ValueError(
                f"z_a {tuple(z_a.shape)} and z_b {tuple(z_b.shape)} must have one shape, (samples, features)"
            )
        return LossTerms(*_BarlowTwins.apply(z_a, z_b, self.lambda_param, self.gather_distributed, self.form))


class _BarlowTwins(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z_a: Tensor, z_b: Tensor, lambda_param: float, gather: bool, form: Form
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.float64 if z_a.dtype == torch.float64 else torch.float32
        with torch.autocast(z_a.device.type, enabled=False):
            world_size = distributed.world_size() if gather else 1
            x = _standardised(z_a.to(dtype), z_b.to(dtype), gather)
            n_global = world_size * len(z_a)
            if form == "auto":
                form = cheaper_form(n_global, z_a.shape[1])
            correlate = _cross_form if form == "cross" else _gram_form
            c = correlate(x, n_global, gather)

            invariance = (c.diagonal - 1).square().sum()
            redundancy = c.row_squares.sum()
            ctx.mark_non_differentiable(invariance, redundancy)
            if any(ctx.needs_input_grad[:2]):
                gradients = _gradients(x, c, lambda_param, n_global)
                # DistributedDataParallel averages over ranks what has to be summed.
                ctx.save_for_backward(*(gradient.mul_(world_size) for gradient in gradients))
            ctx.dtypes = z_a.dtype, z_b.dtype
        return invariance + lambda_param * redundancy, invariance, redundancy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled before the cast, so that a GradScaler's factor lifts small fp16 gradients.
        gradients = ((grad_loss * gradient).to(dtype) for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes))
        return (*gradients, None, None, None)


def cheaper_form(n_global: int, d: int) -> Literal["cross", "gram"]:
    """The form with less arithmetic: 6 N D^2 multiply-adds and two D x D reductions, or 8 N^2 D.

    Between ranks, cross all-reduces D^2 numbers and gram gathers 2 N D, so traffic favours the same side.
    """
    return "gram" if 4 * n_global < 3 * d else "cross"


class _Standardised(NamedTuple):
    """Standardised embeddings of this rank, (n, D) each, and 1 / std, (D,) each."""

    a: Tensor
    b: Tensor
    inv_std_a: Tensor
    inv_std_b: Tensor


class _Correlation(NamedTuple):
    """What the loss and its gradient need of C, without its diagonal where it says off.

    diagonal: (D,), C_ii. row_squares and column_squares: (D,), sums of off C_ij^2.
    b_ct and a_c: (n, D), this rank's b @ off C^T and a @ off C.
    """

    diagonal: Tensor
    row_squares: Tensor
    column_squares: Tensor
    b_ct: Tensor
    a_c: Tensor


def _standardised(z_a: Tensor, z_b: Tensor, gather: bool) -> _Standardised:
    """Mean 0 and biased variance 1 over the samples of all ranks."""
    z = torch.stack((z_a, z_b))
    n = z.shape[1]
    mean = z.mean(dim=1)
    local = torch.stack((mean, (z - mean.unsqueeze(1)).square().sum(dim=1)))
    means, squares = torch.stack(_gathered(local, gather), dim=1)
    n_global = n * len(means)
    if n_global < 2:
        raise ValueError(f"a batch of {n_global} sample has no variance; the loss needs at least 2")
    # Chan et al. 1983: variances add up around the common mean without cancellation.
    mean = means.mean(dim=0)
    variance = (squares.sum(dim=0) + n * (means - mean).square().sum(dim=0)) / n_global
    inv_std = (variance + EPS).rsqrt()
    a, b = (z - mean.unsqueeze(1)) * inv_std.unsqueeze(1)
    return _Standardised(a, b, *inv_std)


def _gathered(tensor: Tensor, gather: bool) -> list[Tensor]:
    return distributed.all_gather(tensor) if gather else [tensor]


def _cross_form(x: _Standardised, n_global: int, gather: bool) -> _Correlation:
    c = x.a.T @ x.b
    if gather:
        distributed.all_reduce_sum_(c)
    c /= n_global
    diagonal = c.diagonal().clone()
    c.fill_diagonal_(0)
    rows, columns = (torch.linalg.vector_norm(c, dim=dim).square() for dim in (1, 0))
    return _Correlation(diagonal, rows, columns, x.b @ c.T, x.a @ c)


def _gram_form(x: _Standardised, n_global: int, gather: bool) -> _Correlation:
    """C C^T and C^T C are never formed: b C^T = (b B^T) A / N with A and B the samples of all ranks."""
    all_a, all_b = torch.cat(_gathered(torch.stack((x.a, x.b)), gather), dim=1)
    b_ct = (x.b @ all_b.T) @ all_a / n_global
    a_c = (x.a @ all_a.T) @ all_b / n_global
    sums = torch.stack(((x.a * x.b).sum(dim=0), (x.a * b_ct).sum(dim=0), (x.b * a_c).sum(dim=0)))
    if gather:
        distributed.all_reduce_sum_(sums)
    diagonal, rows, columns = sums / n_global
    squares = diagonal.square()
    return _Correlation(diagonal, rows - squares, columns - squares, b_ct - x.b * diagonal, a_c - x.a * diagonal)


def _gradients(x: _Standardised, c: _Correlation, lambda_param: float, n_global: int) -> tuple[Tensor, Tensor]:
    """The derivatives of the loss by z_a and z_b of this rank's samples.

    With G = dloss / dC, the gradient of the standardised a is b G^T / N. Through the standardisation,
    as in BatchNorm's backward, its mean over the batch is subtracted, which is 0 because b's mean is,
    and its part along a, sum_j G_ij C_ij: both known on every rank already.
    """
    excess = c.diagonal - 1
    on_diagonal = excess * c.diagonal
    scale = 2 / n_global
    along_a = lambda_param * c.row_squares + on_diagonal
    along_b = lambda_param * c.column_squares + on_diagonal
    grad_a = (lambda_param * c.b_ct + x.b * excess - x.a * along_a) * (scale * x.inv_std_a)
    grad_b = (lambda_param * c.a_c + x.a * excess - x.b * along_b) * (scale * x.inv_std_b)
    return grad_a, grad_b
