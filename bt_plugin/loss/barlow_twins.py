"""The Barlow Twins loss over the global batch.

The embeddings z_a and z_b are standardized per feature over the N samples of all ranks. Their cross-correlation matrix
is C = z_a^T z_b / N, of D x D. The loss is the invariance term plus lambda times the redundancy term:

    loss = sum_i (1 - C_ii)^2 + lambda * sum_{i != j} C_ij^2.

The gradient has a closed form. It is computed together with the value, and stored instead of an autograd graph. No
D x D matrix is therefore kept after the forward pass, and the backward pass needs no collective.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bt_plugin.loss.cost_model import cheaper_form
from bt_plugin.runtime import collectives

# The epsilon of torch.nn.BatchNorm1d, with which the official code standardizes: main.py:206 at 8e8d284.
EPS = 1e-5


class LossTerms(NamedTuple):
    """The loss, its two terms, and statistics of the embeddings.

    All are float32 tensors on the device (float64 for float64 embeddings), except ``finite``. Only the loss has a
    gradient. With gather_distributed=True every rank has the same values.

    Args:
        loss: Scalar, invariance + lambda_param * redundancy.
        invariance: Scalar, sum_i (1 - C_ii)^2.
        redundancy: Scalar, sum_{i != j} C_ij^2.
        finite: (W,) bool. Whether the embeddings of each rank, and their squares, are finite. (1,) if the batch is not
            gathered.
        diagonal_mean: Scalar, mean of C_ii. It is 1 if the views have equal embeddings.
        embedding_std: Scalar, mean standard deviation of a feature before it is standardized. It is close to
            sqrt(EPS) if all embeddings are the same point.
    """

    loss: Tensor
    invariance: Tensor
    redundancy: Tensor
    finite: Tensor
    diagonal_mean: Tensor
    embedding_std: Tensor


class BarlowTwinsLoss(nn.Module):
    """The Barlow Twins loss, a drop-in replacement for lightly.loss.BarlowTwinsLoss.

    With gather_distributed=True, the value is that of one rank that holds the samples of all ranks. So is the
    gradient, after DistributedDataParallel has averaged it. Lightly's loss standardizes each rank's batch on its own,
    and therefore has another gradient.

    The loss is computed in float32 even under autocast, and in float64 for float64 embeddings.

    NaN or infinity in the embeddings of one rank makes the loss NaN on every rank. ``terms(...).finite`` names the
    rank.

    Args:
        lambda_param: Weight lambda of the redundancy term, 0 or more. "auto" is 1 / D.
        gather_distributed: Whether the loss is over the global batch, instead of this rank's batch.
        form: How the redundancy term is computed. "cross": through the D x D cross-correlation matrix. "gram": through
            N x N Gram matrices. "auto": the cheaper one (bt_plugin.loss.cost_model). The values are equal.

    Raises:
        ValueError: If an argument is out of range, or if this torch has no torch.distributed to gather with.

    Source:
        Zbontar et al. 2021, Barlow Twins, https://arxiv.org/abs/2103.03230.

    Examples:
        >>> model = nn.Linear(32, 64)
        >>> view_a, view_b = torch.randn(16, 32), torch.randn(16, 32)
        >>> loss = BarlowTwinsLoss(gather_distributed=True)(model(view_a), model(view_b))
        >>> loss.backward()
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
                "gather_distributed: True is not allowed because this torch has no torch.distributed; set it to False"
            )
        self.lambda_param = lambda_param
        self.gather_distributed = gather_distributed
        self.form = form
        self._agreed_n: int | None = None

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Return the loss. With gather_distributed=True, call it on every rank.

        Args:
            z_a: Embeddings of the first views.
            z_b: Embeddings of the second views, in the same order.

        Shape:
            - z_a, z_b: (n, D) floating point, this rank's samples. Every rank must have the same n.
            - Output: scalar float32 (float64 for float64 embeddings). With gather_distributed=True it is the same on
              every rank.

        Raises:
            ValueError: If the shapes of z_a and z_b differ, they are not floating point, the ranks' batch sizes
                differ, or there are fewer than two samples.
        """
        return self.terms(z_a, z_b).loss

    def terms(self, z_a: Tensor, z_b: Tensor) -> LossTerms:
        """Return the loss, its two terms and statistics for logging.

        Args:
            z_a: Embeddings of the first views, as for forward.
            z_b: Embeddings of the second views, as for forward.

        Raises:
            ValueError: If the embeddings are not as forward needs them.
        """
        if z_a.ndim != 2 or z_a.shape != z_b.shape:
            raise ValueError(
                f"z_a {tuple(z_a.shape)} and z_b {tuple(z_b.shape)} must have the same shape, (samples, features)"
            )
        if not (z_a.is_floating_point() and z_b.is_floating_point()):
            raise ValueError(f"z_a {z_a.dtype} and z_b {z_b.dtype} must be floating point; call .float()")
        needs_gradient = torch.is_grad_enabled() and (z_a.requires_grad or z_b.requires_grad)
        with torch.no_grad(), torch.autocast(z_a.device.type, enabled=False):
            terms, gradients = self._evaluated(z_a, z_b, needs_gradient)
        if not gradients:
            return terms
        loss: Tensor = _WithGradients.apply(terms.loss, z_a, z_b, *gradients)
        # Every field is written out because the compiler of torch 2.7 supports neither _replace nor a slice.
        return LossTerms(
            loss, terms.invariance, terms.redundancy, terms.finite, terms.diagonal_mean, terms.embedding_std
        )

    def _evaluated(self, z_a: Tensor, z_b: Tensor, needs_gradient: bool) -> tuple[LossTerms, tuple[Tensor, ...]]:
        """Return the terms, and the gradients of the loss with respect to z_a and z_b if they are needed."""
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
        # DistributedDataParallel averages the ranks' gradients, which must be summed: hence W / N = 1 / n.
        return terms, _gradients(batch, c, lambda_param, 2 / n) if needs_gradient else ()

    def _check_sizes(self, n: int, sizes: Tensor) -> None:
        if n * len(sizes) < 2:
            raise ValueError(f"a batch of {n} sample(s) has no variance; the loss needs at least 2")
        # Reading numbers from a GPU waits for it. On a GPU, only a new batch size is therefore compared.
        if len(sizes) == 1 or (sizes.is_cuda and n == self._agreed_n):
            return
        samples = [int(size) for size in sizes]
        if len(set(samples)) > 1:
            raise ValueError(
                f"the ranks have {', '.join(map(str, samples))} samples; all must have the same number, so drop the"
                " last, incomplete batch (drop_last=True)"
            )
        self._agreed_n = n


class _Batch(NamedTuple):
    """This rank's part of the standardized global batch.

    Args:
        a: (n, D), this rank's embeddings of the first views, standardized over all ranks.
        b: (n, D), those of the second views.
        inv_std_a: (D,), 1 / standard deviation of each feature of the first views.
        inv_std_b: (D,), that of the second views.
        finite: (W,) bool, whether each rank's embeddings are finite.
    """

    a: Tensor
    b: Tensor
    inv_std_a: Tensor
    inv_std_b: Tensor
    finite: Tensor


class _Correlation(NamedTuple):
    """The parts of C that the loss and its gradient need.

    Args:
        diagonal: (D,), C_ii.
        row_squares: (D,), sums of C_ij^2 over j != i.
        column_squares: (D,), sums of C_ij^2 over i != j.
        b_ct: (n, D), this rank's b @ C^T, with ``within`` as the diagonal of C.
        a_c: (n, D), this rank's a @ C, with ``within`` as the diagonal of C.
        within: (D,), the diagonal with which b_ct and a_c were computed: 0, or that of C.
    """

    diagonal: Tensor
    row_squares: Tensor
    column_squares: Tensor
    b_ct: Tensor
    a_c: Tensor
    within: Tensor


class _WithGradients(torch.autograd.Function):
    """The loss as a function of z_a and z_b whose gradients are already computed."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, z_a: Tensor, z_b: Tensor, grad_a: Tensor, grad_b: Tensor) -> Tensor:
        ctx.save_for_backward(grad_a, grad_b)
        ctx.dtypes = z_a.dtype, z_b.dtype
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        # Scale before the cast, so that a GradScaler's factor keeps small fp16 gradients above 0.
        grad_a, grad_b = ((grad_loss * gradient).to(dtype) for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes))
        return None, grad_a, grad_b, None, None


def _standardised(z_a: Tensor, z_b: Tensor, gather: bool, check_sizes: Callable[[int, Tensor], None]) -> _Batch:
    """Standardize to mean 0 and biased variance 1 over the samples of all ranks, after a check of the batch sizes."""
    dtype = torch.promote_types(torch.promote_types(z_a.dtype, z_b.dtype), torch.float32)
    n = len(z_a)
    means = [z.to(dtype).mean(dim=0) for z in (z_a, z_b)]
    a, b = (z - mean for z, mean in zip((z_a, z_b), means))
    variances = [_column_squares(centred) / n for centred in (a, b)]
    by_rank = _gathered(torch.cat((means[0].new_full((1,), n), *means, *variances)), gather)
    check_sizes(n, by_rank[:, 0])
    rank_means, rank_variances = by_rank[:, 1:].unflatten(1, (2, -1)).unbind(dim=1)
    mean = rank_means.mean(dim=0)
    # Chan et al. 1983: combine the ranks' variances around the common mean, without cancellation.
    variance = (rank_variances + (rank_means - mean).square()).mean(dim=0)
    inv_std_a, inv_std_b = (variance + EPS).rsqrt().chunk(2)
    if len(by_rank) > 1:
        shift_a, shift_b = (torch.cat(means) - mean).chunk(2)
        a, b = a.add_(shift_a), b.add_(shift_b)
    return _Batch(a.mul_(inv_std_a), b.mul_(inv_std_b), inv_std_a, inv_std_b, by_rank.isfinite().all(dim=1))


def _gathered(tensor: Tensor, gather: bool) -> Tensor:
    """Return the tensors of all ranks, (W, ...)."""
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
    """Compute b C^T = (b B^T) A / N and a C = (a A^T) B / N without forming C. A and B are the samples of all ranks."""
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
    """Return scale * left @ right, without an extra pass over the result."""
    return torch.addmm(left.new_zeros(()), left, right, beta=0, alpha=scale)


def _column_squares(matrix: Tensor) -> Tensor:
    """Return the sum of squares of each column. A block of rows stays in the cache: 27 times as fast as vector_norm."""
    return torch.stack([block.square().sum(dim=0) for block in matrix.split(256)]).sum(dim=0)


def _gradients(x: _Batch, c: _Correlation, lambda_param: float, scale: float) -> tuple[Tensor, Tensor]:
    """Return the gradients of the loss with respect to this rank's z_a and z_b, in the memory of b_ct and a_c.

    With G = dloss / dC, the gradient of the standardized a is b G^T / N. The standardization subtracts two parts of
    it, as in BatchNorm's backward. The first is its mean over the batch, which is 0 because the mean of b is. The
    second is its projection onto a, sum_j G_ij C_ij. Every rank already knows both.

    Args:
        x: This rank's standardized samples.
        c: Parts of C. Its b_ct and a_c are overwritten.
        lambda_param: Weight lambda of the redundancy term.
        scale: Common factor: 2 / N if the ranks' gradients are summed, 2 / n if they are averaged.
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
