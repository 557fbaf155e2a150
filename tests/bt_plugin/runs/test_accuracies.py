from __future__ import annotations

import pytest
from scipy.stats import binomtest

from bt_plugin.runs.accuracies import accuracy_table, accuracy_text, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (13, 40), (4000, 5000)])
def test_the_interval_is_wilsons(hits: int, n: int) -> None:
    theirs = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_the_interval_contains_the_share_in_spite_of_rounding() -> None:
    for n in range(1, 200):
        for hits in (0, 1, n - 1, n):
            low, high = wilson(hits, n)
            assert low <= hits / n <= high
    assert wilson(4, 4)[1] == 1


def test_a_table_has_the_accuracies_that_were_measured() -> None:
    knn = {"pretrained": 0.8, "raw": 0.5}
    summary = {"knn_top1": knn, "val_images": 1000, "linear_top1": None, "view_retrieval_top1": {"raw": 0.25}}
    columns, rows = accuracy_table(summary | {"view_retrieval_images": 40})
    assert columns == [("kNN top-1", "of 1,000 images"), ("view retrieval top-1", "of 40 images")]
    assert [name for name, _ in rows] == ["raw pixels", "pretrained network"], "the baselines first"
    assert rows[0][1] == ["50.0% (46.9% to 53.1%)", "25.0% (14.2% to 40.2%)"]
    assert rows[1][1] == ["80.0% (77.4% to 82.4%)", "-"]
    assert accuracy_table({"knn_top1": None}) == ([], [])


def test_a_summary_of_an_earlier_version_has_no_intervals() -> None:
    summary = {"knn_top1": {"raw": 0.5}}
    assert accuracy_table(summary) == ([("kNN top-1", "")], [("raw pixels", ["50.0%"])])
    assert accuracy_text(summary, "knn_top1", "calibrated") == "-"
