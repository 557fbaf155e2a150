"""How far two right results may be apart: what rounding explains on any processor, and no more.

Processors and numbers of threads add the same terms in other orders, so no result is exact, and none is the right one.
A test of a formula therefore computes in float64, where rounding is a billion times smaller than any mistake, and
torch.testing.assert_close's default is enough. A test that has to compute in float32 takes its tolerance from here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rounding(terms: int, dtype: torch.dtype = torch.float32) -> float:
    """Return how far rounding may move a sum, as a share of the size of its terms.

    Each addition rounds by at most half of eps. The roundings have either sign, and those of n additions add up like
    the square root of n (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 2.8), in any order.
    Eight times that leaves room for two results that err in opposite directions, and for the largest of many.

    Args:
        terms: The additions that a result went through, one after the other: the terms of a matrix product's sum, the
            steps of an optimizer. torch sums a tensor in blocks, which counts as the logarithm of its size.
        dtype: What was computed in.
    """
    return 8 * torch.finfo(dtype).eps / 2 * math.sqrt(terms)


def assert_rounded(
    actual: Tensor, expected: Tensor, *, terms: int, scale: float | Tensor | None = None, name: str = ""
) -> None:
    """Assert that two tensors differ by rounding alone.

    The error of a number follows the size of what was added, not of the sum: what is left of terms that cancel has
    their error. So all numbers have the same tolerance, unless scale says otherwise.

    Args:
        actual: The result.
        expected: What it should be. Both are of one shape; the coarser dtype counts.
        terms: As rounding's.
        scale: The size of the terms, broadcast over the tensor. Default: the largest value expected.
        name: What is compared, for the message.

    Raises:
        AssertionError: If a number differs by more, or is not finite.
    """
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} is not {tuple(expected.shape)}"
    coarser = max(actual.dtype, expected.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    size = expected.double().abs().amax() if scale is None else torch.as_tensor(scale).double()
    allowed = rounding(terms, coarser) * size
    share = (actual.double() - expected.double()).abs() / allowed.clamp(min=torch.finfo(torch.float64).tiny)
    worst = share.nan_to_num(nan=math.inf).amax().item()
    assert worst <= 1, f"{name}: {worst:.3g} times as far apart as rounding explains"
