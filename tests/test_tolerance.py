"""The tolerance is wider than sums in any order, in any precision, and narrower than small mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tolerance import assert_rounded, rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("terms", [2, 16, 300, 5000])
def test_sums_in_any_order_are_within(terms: int, dtype: torch.dtype) -> None:
    numbers = torch.randn(terms, 64).to(dtype)
    exact = numbers.double().sum(0)
    one_by_one = torch.zeros(64, dtype=dtype)
    for row in numbers:
        one_by_one += row
    backwards = numbers.flip(0).sum(0)
    # What is added, of either sign, is as large as the square root of the number of terms.
    size = terms**0.5
    for one, other in ((one_by_one, exact), (backwards, exact), (backwards, one_by_one)):
        assert_rounded(one, other, terms=terms, scale=size)
    too_far = (exact + 2.5 * rounding(terms, dtype) * size).to(dtype)
    with pytest.raises(AssertionError, match=r"sum: .* times as far apart as rounding explains"):
        assert_rounded(too_far, exact, terms=terms, scale=size, name="sum")


def test_a_product_of_matrices_is_within() -> None:
    left, right = np.random.default_rng(0).standard_normal((2, 64, 64))
    ours = torch.from_numpy(left).float() @ torch.from_numpy(right).float()
    expected = torch.from_numpy(left @ right)
    assert_rounded(ours, expected, terms=64)
    for mistake in (1 + 1e-4, 63 / 64):
        with pytest.raises(AssertionError):
            assert_rounded(mistake * ours, expected, terms=64)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_close(bad: float) -> None:
    for one, other in ((bad, 1.0), (1.0, bad), (bad, bad)):
        with pytest.raises(AssertionError):
            assert_rounded(torch.tensor([one, 1.0]), torch.tensor([other, 1.0]), terms=1)


def test_shapes_are_not_broadcast() -> None:
    with pytest.raises(AssertionError, match=r"gradient: \(3, 1\) is not \(3,\)"):
        assert_rounded(torch.ones(3, 1), torch.ones(3), terms=1, name="gradient")


def test_zeros_are_exact() -> None:
    assert_rounded(torch.zeros(3), torch.zeros(3), terms=5)
    with pytest.raises(AssertionError):
        assert_rounded(torch.tensor([1e-30]), torch.zeros(1), terms=5)
