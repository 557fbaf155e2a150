"""The choice between the two forms, where it is known."""

from __future__ import annotations

import pytest

from bt_plugin.loss_cost import cheaper_form, loss_cost


@pytest.mark.parametrize(
    ("n", "d", "world_size", "form"),
    [
        (256, 8192, 1, "gram"),
        (4096, 8192, 1, "gram"),
        (8192, 8192, 1, "cross"),
        (2048, 2048, 1, "cross"),
        (256, 2048, 1, "gram"),
        # The official batch, over the official 32 ranks.
        (64, 8192, 32, "gram"),
        # A little over three quarters of D: arithmetic says cross, and traffic gram.
        (6400, 8192, 1, "cross"),
        (800, 8192, 8, "gram"),
        (2048, 8192, 8, "cross"),
    ],
)
def test_the_form_that_costs_less(n: int, d: int, world_size: int, form: str) -> None:
    assert cheaper_form(n, d, world_size) == form


def test_costs_by_hand() -> None:
    cross, gram = (loss_cost(form, n=4, d=10, world_size=2) for form in ("cross", "gram"))
    assert (cross.multiply_adds, gram.multiply_adds) == (3 * 4 * 100, 4 * 4 * 8 * 10)
    assert (cross.entries_of_c, gram.entries_of_c) == (100, 0)
    assert cross.bytes_sent == 4 * (41 + 100)
    assert gram.bytes_sent == 4 * (41 + 80 + 30)
    assert loss_cost("cross", n=4, d=10).bytes_sent == 0
