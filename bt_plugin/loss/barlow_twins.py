"""The Barlow Twins objective over the global batch.

With z_a and z_b standardised per feature over the N samples of all ranks and C = z_a^T z_b / N,

    loss = sum_i (1 - C_ii)^2 + lambda * sum_{i != j} C_ij^2.

The gradient has a closed form, so it is computed together with the value and kept instead of the
graph: no D x D matrix outlives the forward pass, and the backward pass needs no collective.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bt_plugin.loss.cost_model import cheaper_form
from bt_plugin.runtime import collectives

# As torch.nn.BatchNorm1d, by which the official code standardises: main.py:206 at 8e8d284.
EPS = 1e-5


class LossTerms(NamedTuple):
    """The loss and its two terms; loss = invariance + lambda_param * redundancy.

    Only the loss has a gradient. finite: (W,) bool, whether the embeddings of each rank are finite
    (and their squares), the same on every rank; where the batch is not gathered, of this rank alone.
    diagonal_mean: the mean of C_ii, 1 where the views agree. embedding_std: the mean standard deviation
    of a feature before it is standardised, near sqrt(EPS) where all embeddings are one point.
    """

    loss: Tensor
    invariance: Tensor
    redundancy: Tensor
    finite: Tensor
    diagonal_mean: Tensor
    embedding_std: Tensor


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
            over N x N matrices, "auto" whichever costs less (bt_plugin.loss.cost_model). The values are equal.

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
        *,
        form: Literal["auto", "cross", "gram"] = "auto",
    ) -> None:
        super().__init__()
        if lambda_param != "auto" and not (isinstance(lambda_param, (int, float)) and lambda_param >= 0):
            raise ValueError(f'lambda_param: {lambda_param!r} is not allowed; it must be 0 or more, or "auto"')
        if form not in ("auto", "cross", "gram"):
            raise ValueError(f"form: {form!r} is not allowed; it must be auto, cross or gram")
        if gather_distributed and not collectives.is_available():
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
        needs_gradient = torch.is_grad_enabled() and (z_a.requires_grad or z_b.requires_grad)
        with torch.no_grad(), torch.autocast(z_a.device.type, enabled=False):
            terms, gradients = self._evaluated(z_a, z_b, needs_gradient)
        if not gradients:
            return terms
        loss: Tensor = _WithGradients.apply(terms.loss, z_a, z_b, *gradients)
        # Spelled out: torch 2.7's compiler follows neither _replace nor a slice.
        return LossTerms(
            loss, terms.invariance, terms.redundancy, terms.finite, terms.diagonal_mean, terms.embedding_std
        )

    def _evaluated(self, z_a: Tensor, z_b: Tensor, needs_gradient: bool) -> tuple[LossTerms, tuple[Tensor, ...]]:
        """The terms, and the gradients of the loss by z_a and z_b if they are needed."""
        n, d = z_a.shape
        batch = _standardised(z_a, z_b, self.gather_distributed, self._check_sizes)
        world_size = len(batch.finite)
        lambda_param = 1 / d if self.lambda_param == "auto" else self.lambda_param
        form = cheaper_form(n, d, world_size) if self.form == "auto" else self.form
        c = (_cross_form if form == "cross" else _gram_form)(batch, n * world_size, self.gather_distributed)
        invariance, redundancy = (c.diagonal - 1).square().sum(), c.row_squares.sum()
        embedding_std = (1 / batch.inv_std_a + 1 / batch.inv_std_b).mean() / 2
        terms = LossTerms(
            invariance + lambda_param * redundancy,
            invariance,
            redundancy,
            batch.finite,
            c.diagonal.mean(),
            embedding_std,
        )
        # DistributedDataParallel averages over ranks what has to be summed, hence W / N = 1 / n.
        return terms, _gradients(batch, c, lambda_param, 2 / n) if needs_gradient else ()

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


class _Batch(NamedTuple):
    """This rank's part of the standardised global batch.

    a and b: (n, D). inv_std_a and inv_std_b: (D,), 1 / standard deviation. finite: (W,) bool, by rank.
    """

    a: Tensor
    b: Tensor
    inv_std_a: Tensor
    inv_std_b: Tensor
    finite: Tensor


class _Correlation(NamedTuple):
    """What the loss and its gradient need of C, without its diagonal where it says off.

    diagonal: (D,), C_ii. row_squares and column_squares: (D,), sums of off C_ij^2.
    b_ct and a_c: (n, D), this rank's b @ C^T and a @ C, with `within` in the place of C's diagonal.
    """

    diagonal: Tensor
    row_squares: Tensor
    column_squares: Tensor
    b_ct: Tensor
    a_c: Tensor
    within: Tensor


class _WithGradients(torch.autograd.Function):
    """The loss, with gradients that are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, z_a: Tensor, z_b: Tensor, grad_a: Tensor, grad_b: Tensor) -> Tensor:
        ctx.save_for_backward(grad_a, grad_b)
        ctx.dtypes = z_a.dtype, z_b.dtype
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled before the cast, so that a GradScaler's factor lifts small fp16 gradients.
        grad_a, grad_b = ((grad_loss * gradient).to(dtype) for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes))
        return None, grad_a, grad_b, None, None


def _standardised(z_a: Tensor, z_b: Tensor, gather: bool, check_sizes: Callable[[int, Tensor], None]) -> _Batch:
    """Mean 0 and biased variance 1 over the samples of all ranks; sizes are checked before they are relied on."""
    dtype = torch.promote_types(torch.promote_types(z_a.dtype, z_b.dtype), torch.float32)
    n = len(z_a)
    means = [z.to(dtype).mean(dim=0) for z in (z_a, z_b)]
    a, b = (z - mean for z, mean in zip((z_a, z_b), means))
    variances = [_column_squares(centred) / n for centred in (a, b)]
    by_rank = _gathered(torch.cat((means[0].new_tensor([n]), *means, *variances)), gather)
    check_sizes(n, by_rank[:, 0])
    rank_means, rank_variances = by_rank[:, 1:].unflatten(1, (2, -1)).unbind(dim=1)
    mean = rank_means.mean(dim=0)
    # Chan et al. 1983: variances add up around the common mean without cancellation.
    variance = (rank_variances + (rank_means - mean).square()).mean(dim=0)
    inv_std_a, inv_std_b = (variance + EPS).rsqrt().chunk(2)
    if len(by_rank) > 1:
        shift_a, shift_b = (torch.cat(means) - mean).chunk(2)
        a, b = a.add_(shift_a), b.add_(shift_b)
    return _Batch(a.mul_(inv_std_a), b.mul_(inv_std_b), inv_std_a, inv_std_b, by_rank.isfinite().all(dim=1))


def _gathered(tensor: Tensor, gather: bool) -> Tensor:
    """(W, ...), the tensors of all ranks."""
    return collectives.all_gather(tensor) if gather else tensor.unsqueeze(0)


def _cross_form(x: _Batch, n_global: int, gather: bool) -> _Correlation:
    c = _product(x.a.T, x.b, 1 / n_global)
    if gather:
        collectives.all_reduce_sum_(c)
    diagonal = c.diagonal().clone()
    c.fill_diagonal_(0)
    rows, columns = torch.linalg.vector_norm(c, dim=1).square(), _column_squares(c)
    return _Correlation(diagonal, rows, columns, x.b @ c.T, x.a @ c, torch.zeros_like(diagonal))


def _gram_form(x: _Batch, n_global: int, gather: bool) -> _Correlation:
    """C C^T and C^T C are never formed: b C^T = (b B^T) A / N with A and B the samples of all ranks."""
    all_a, all_b = (_gathered(part, gather).flatten(0, 1) for part in (x.a, x.b))
    b_ct = _product(x.b, all_b.T, 1 / n_global) @ all_a
    a_c = _product(x.a, all_a.T, 1 / n_global) @ all_b
    sums = torch.stack([(left * right).sum(dim=0) for left, right in ((x.a, x.b), (x.a, b_ct), (x.b, a_c))])
    if gather:
        collectives.all_reduce_sum_(sums)
    diagonal, rows, columns = sums / n_global
    squares = diagonal.square()
    return _Correlation(diagonal, rows - squares, columns - squares, b_ct, a_c, diagonal)


def _product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale * left @ right, without a pass over the result."""
    return torch.addmm(left.new_zeros(()), left, right, beta=0, alpha=scale)


def _column_squares(matrix: Tensor) -> Tensor:
    """Sums of squares by column. A block at a time stays in the cache; torch's vector_norm takes 27 times as long."""
    return torch.stack([block.square().sum(dim=0) for block in matrix.split(256)]).sum(dim=0)


def _gradients(x: _Batch, c: _Correlation, lambda_param: float, scale: float) -> tuple[Tensor, Tensor]:
    """The derivatives of the loss by z_a and z_b of this rank's samples, in the memory of b_ct and a_c.

    With G = dloss / dC, the gradient of the standardised a is b G^T / N. Through the standardisation,
    as in BatchNorm's backward, its mean over the batch is subtracted, which is 0 because b's is, and
    its part along a, sum_j G_ij C_ij: both known on every rank already. scale is 2 / N, where the ranks'
    gradients are summed.
    """
    excess = c.diagonal - 1
    toward_other = excess - lambda_param * c.within
    on_diagonal = excess * c.diagonal
    gradients = []
    for product, own, other, squares, inv_std in (
        (c.b_ct, x.a, x.b, c.row_squares, x.inv_std_a),
        (c.a_c, x.b, x.a, c.column_squares, x.inv_std_b),
    ):
        factor = scale * inv_std
        product.mul_(lambda_param * factor).addcmul_(other, toward_other * factor)
        gradients.append(product.addcmul_(own, (lambda_param * squares + on_diagonal) * factor, value=-1))
    grad_a, grad_b = gradients
    return grad_a, grad_b
