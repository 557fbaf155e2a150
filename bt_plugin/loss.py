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
from bt_plugin.loss_cost import ExactForm, cheaper_form

# As torch.nn.BatchNorm1d, by which the official code standardises: main.py:206 at 8e8d284.
EPS = 1e-5


class LossTerms(NamedTuple):
    """The loss and its two terms; loss = invariance + lambda_param * redundancy.

    Only the loss has a gradient. finite: (W,) bool, whether the embeddings of each rank are finite
    (and their squares), the same on every rank; where the batch is not gathered, of this rank alone.
    """

    loss: Tensor
    invariance: Tensor
    redundancy: Tensor
    finite: Tensor


class BarlowTwinsLoss(nn.Module):
    """Barlow Twins loss [0], a drop-in for lightly.loss.BarlowTwinsLoss.

    Where Lightly's standardises by each rank's own batch, gather_distributed=True here gives the
    value, and after DistributedDataParallel's averaging the gradient, of one rank that holds all
    samples. Computed in float32 whatever autocast says, in float64 for float64 inputs.

    NaN or infinity in one rank's embeddings makes the loss NaN on every rank; LossTerms.finite says
    whose they were.

    - [0]: Barlow Twins, 2021, https://arxiv.org/abs/2103.03230

    Args:
        lambda_param: Weight of the redundancy-reduction term, 0 or more; "auto" is 1 / D.
        gather_distributed: Whether the batch is that of all ranks, or this rank's own.
        form: How the redundancy-reduction term is computed: "cross" over the D x D matrix C, "gram"
            over N x N matrices, "auto" whichever costs less (bt_plugin.loss_cost). The values are equal.

    Raises:
        ValueError: If an argument is out of range, or torch.distributed is asked for and missing.

    Examples:
        >>> loss_fn = BarlowTwinsLoss(gather_distributed=True)
        >>> loss = loss_fn(model(view_a), model(view_b))
    """

    def __init__(
        self,
        lambda_param: float | Literal["auto"] = 5e-3,
        gather_distributed: bool = False,
        form: Literal["auto", "cross", "gram"] = "auto",
    ) -> None:
        super().__init__()
        if lambda_param != "auto" and not (isinstance(lambda_param, (int, float)) and lambda_param >= 0):
            raise ValueError(f'lambda_param: {lambda_param!r} is not allowed; it must be 0 or more, or "auto"')
        if form not in ("auto", "cross", "gram"):
            raise ValueError(f"form: {form!r} is not allowed; it must be auto, cross or gram")
        if gather_distributed and not distributed.is_available():
            raise ValueError(
                "gather_distributed: True is not allowed, this torch has no torch.distributed; set it to False"
            )
        self.lambda_param = lambda_param
        self.gather_distributed = gather_distributed
        self.form = form
        self._agreed_n: int | None = None

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """The loss.

        Args:
            z_a: Embeddings of the first views.
            z_b: Embeddings of the second views.

        Shape:
            - z_a, z_b: (n, D), floating point, this rank's samples; every rank the same n.
            - Output: scalar float32 (float64 for float64), the same on every rank where gathered.

        Raises:
            ValueError: If the shapes differ, the ranks' batch sizes differ, or there are fewer than two samples.
        """
        return self.terms(z_a, z_b).loss

    def terms(self, z_a: Tensor, z_b: Tensor) -> LossTerms:
        """The loss and its two terms, for logging; arguments as forward's."""
        if z_a.ndim != 2 or z_a.shape != z_b.shape:
            raise ValueError(
                f"z_a {tuple(z_a.shape)} and z_b {tuple(z_b.shape)} must have one shape, (samples, features)"
            )
        if not (z_a.is_floating_point() and z_b.is_floating_point()):
            raise ValueError(f"z_a {z_a.dtype} and z_b {z_b.dtype} must be floating point; take .float()")
        n, d = z_a.shape
        batch = _statistics(z_a, z_b, self.gather_distributed)
        self._check_sizes(n, batch.sizes)
        lambda_param = 1 / d if self.lambda_param == "auto" else self.lambda_param
        form = cheaper_form(n, d, len(batch.sizes)) if self.form == "auto" else self.form
        loss, invariance, redundancy = _BarlowTwins.apply(z_a, z_b, batch, lambda_param, self.gather_distributed, form)
        return LossTerms(loss, invariance, redundancy, batch.finite)

    def _check_sizes(self, n: int, sizes: Tensor) -> None:
        if n * len(sizes) < 2:
            raise ValueError(f"a batch of {n} sample has no variance; the loss needs at least 2")
        # Reading a GPU's numbers waits for it, so there only a batch size that is new is compared.
        if len(sizes) == 1 or (sizes.is_cuda and n == self._agreed_n):
            return
        samples = [int(size) for size in sizes]
        if len(set(samples)) > 1:
            raise ValueError(
                f"the ranks hold {', '.join(map(str, samples))} samples; all must hold the same number, so drop the"
                " last, incomplete batch (drop_last=True)"
            )
        self._agreed_n = n


class _Statistics(NamedTuple):
    """Of the global batch. sizes: (W,), samples by rank. finite: (W,) bool. The rest: (2, D), of a and b."""

    sizes: Tensor
    finite: Tensor
    mean: Tensor
    inv_std: Tensor


class _Standardised(NamedTuple):
    """Standardised embeddings of this rank, (n, D) each."""

    a: Tensor
    b: Tensor


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


class _BarlowTwins(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z_a: Tensor, z_b: Tensor, batch: _Statistics, lambda_param: float, gather: bool, form: ExactForm
    ) -> tuple[Tensor, Tensor, Tensor]:
        world_size = len(batch.sizes)
        n_global = world_size * len(z_a)
        with torch.autocast(z_a.device.type, enabled=False):
            x = _standardised(z_a, z_b, batch)
            c = (_cross_form if form == "cross" else _gram_form)(x, n_global, gather)
            invariance = (c.diagonal - 1).square().sum()
            redundancy = c.row_squares.sum()
            ctx.mark_non_differentiable(invariance, redundancy)
            if any(ctx.needs_input_grad[:2]):
                # DistributedDataParallel averages over ranks what has to be summed.
                scale = 2 * world_size / n_global * batch.inv_std
                ctx.save_for_backward(*_gradients(x, c, lambda_param, scale))
            ctx.dtypes = z_a.dtype, z_b.dtype
        return invariance + lambda_param * redundancy, invariance, redundancy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled before the cast, so that a GradScaler's factor lifts small fp16 gradients.
        gradients = ((grad_loss * gradient).to(dtype) for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes))
        return (*gradients, None, None, None, None)


@torch.no_grad()
def _statistics(z_a: Tensor, z_b: Tensor, gather: bool) -> _Statistics:
    """Mean and 1 / std, by the biased variance, over the samples of all ranks."""
    dtype = torch.promote_types(torch.promote_types(z_a.dtype, z_b.dtype), torch.float32)
    of_a, of_b = (torch.var_mean(z.to(dtype), dim=0, correction=0) for z in (z_a, z_b))
    local = torch.cat((of_a[0].new_tensor([len(z_a)]), *of_a, *of_b))
    by_rank = _gathered(local, gather)
    (variance_a, mean_a, variance_b, mean_b) = by_rank[:, 1:].chunk(4, dim=1)
    means = torch.stack((mean_a, mean_b), dim=1)
    mean = means.mean(dim=0)
    # Chan et al. 1983: variances add up around the common mean without cancellation.
    variance = (torch.stack((variance_a, variance_b), dim=1) + (means - mean).square()).mean(dim=0)
    return _Statistics(by_rank[:, 0], by_rank.isfinite().all(dim=1), mean, (variance + EPS).rsqrt())


def _standardised(z_a: Tensor, z_b: Tensor, batch: _Statistics) -> _Standardised:
    a, b = ((z - mean).mul_(inv_std) for z, mean, inv_std in zip((z_a, z_b), batch.mean, batch.inv_std))
    return _Standardised(a, b)


def _gathered(tensor: Tensor, gather: bool) -> Tensor:
    """(W, ...), the tensors of all ranks."""
    return distributed.all_gather(tensor) if gather else tensor.unsqueeze(0)


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
    all_a, all_b = (_gathered(part, gather).flatten(0, 1) for part in x)
    b_ct = ((x.b @ all_b.T) @ all_a).div_(n_global)
    a_c = ((x.a @ all_a.T) @ all_b).div_(n_global)
    sums = torch.stack([(left * right).sum(dim=0) for left, right in ((x.a, x.b), (x.a, b_ct), (x.b, a_c))])
    if gather:
        distributed.all_reduce_sum_(sums)
    diagonal, rows, columns = sums / n_global
    squares = diagonal.square()
    b_ct.addcmul_(x.b, diagonal, value=-1)
    a_c.addcmul_(x.a, diagonal, value=-1)
    return _Correlation(diagonal, rows - squares, columns - squares, b_ct, a_c)


def _gradients(x: _Standardised, c: _Correlation, lambda_param: float, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives of the loss by z_a and z_b of this rank's samples, in the memory of b_ct and a_c.

    With G = dloss / dC, the gradient of the standardised a is b G^T / N. Through the standardisation,
    as in BatchNorm's backward, its mean over the batch is subtracted, which is 0 because b's is, and
    its part along a, sum_j G_ij C_ij: both known on every rank already. scale: (2, D), 2 / (N std).
    """
    excess = c.diagonal - 1
    on_diagonal = excess * c.diagonal
    along_a = lambda_param * c.row_squares + on_diagonal
    along_b = lambda_param * c.column_squares + on_diagonal
    grad_a = c.b_ct.mul_(lambda_param).addcmul_(x.b, excess).addcmul_(x.a, along_a, value=-1).mul_(scale[0])
    grad_b = c.a_c.mul_(lambda_param).addcmul_(x.a, excess).addcmul_(x.b, along_b, value=-1).mul_(scale[1])
    return grad_a, grad_b
