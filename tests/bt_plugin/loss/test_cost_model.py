"""The choice between the two forms, where it is known."""

from __future__ import annotations

import pytest

from bt_plugin.loss.cost_model import cheaper_form, loss_cost
from tests.conftest import REPOSITORY


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


def test_the_docs_table_of_traffic_is_the_models() -> None:
    lines = (REPOSITORY / "docs" / "loss.md").read_text().splitlines()
    first = lines.index("| n | W | N | D | cross | gram | auto | Lightly |") + 2
    rows = [line.strip("| ").split(" | ") for line in lines[first : lines.index("", first)]]
    assert len(rows) > 4
    for n, world_size, n_global, d, cross, gram, auto, lightly in rows:
        shape = {"n": int(n), "d": int(d), "world_size": int(world_size)}
        assert int(n) * int(world_size) == int(n_global)
        for form, written in (("cross", cross), ("gram", gram)):
            assert f"{loss_cost(form, **shape).bytes_sent / 2**20:.1f}" == written
        assert cheaper_form(**shape) == auto
        # Two all-reduces of C.
        assert f"{2 * 2 * (1 - 1 / int(world_size)) * 4 * int(d) ** 2 / 2**20:.0f}" == lightly
